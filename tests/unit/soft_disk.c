/* SPDX-License-Identifier: MIT */
#include "soft_disk.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

static int listen_at(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    unlink(path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 8) < 0) {
        perror(path);
        exit(1);
    }
    return fd;
}

static void *serve(void *arg)
{
    struct soft_disk *disk = arg;

    if (disk->on_thread)
        disk->on_thread();
    loop_run(disk->loop);
    return NULL;
}

static void must(int ret, const struct dt_error *err)
{
    if (ret < 0) {
        fprintf(stderr, "soft disk: %s\n", err->text);
        exit(1);
    }
}

/* The front comes after the device has started. */
static void info_changed(void *arg)
{
    const struct soft_disk *disk = arg;

    if (disk->front)
        front_class_ops(disk->card ?: &disk_front)->info_changed(disk->front);
}

void soft_disk_start(struct soft_disk *disk, const char *chain)
{
    static unsigned serial;
    struct loop_config loop_config = {.spin_ns = disk->spin_ns ?: DT_US(50)};
    const struct front_class *class = disk->card ?: &disk_front;
    struct front_config front_config = {.class = class,
                                        .session_fd = -1,
                                        .packed = true,
                                        .iommu = disk->iommu,
                                        .config_space = disk->config_space};
    struct chain_spec spec;
    struct dt_error err;

    snprintf(disk->socket, sizeof(disk->socket), "/tmp/devtap-test-%d-%u.sock", getpid(), serial++);
    must(loop_new(&disk->loop, &loop_config, &err), &err);
    must(chain_parse(&spec, chain, &err), &err);
    must(device_new(&disk->dev,
                    &(struct device_config){.kind = disk->card ? DEVICE_NET : DEVICE_DISK,
                                            .name = "test",
                                            .chain = &spec,
                                            .loops = &disk->loop,
                                            .threads = 1},
                    &err),
         &err);
    chain_spec_free(&spec);
    disk->ops = *front_class_ops(class);
    disk->ops.info_changed = info_changed;
    must(device_start(disk->dev, &disk->ops, disk, &err), &err);
    front_config.dev = disk->dev;
    front_config.listen_fd = listen_at(disk->socket);
    must(front_new(&disk->front, &front_config, &err), &err);
    if (disk->turned)
        return;
    pthread_create(&disk->thread, NULL, serve, disk);
    while (!loop_is_foreign(disk->loop))
        usleep(100);
}

static void on_stopped(void *arg)
{
    __atomic_store_n(&((struct soft_disk *)arg)->stopped, true, __ATOMIC_RELEASE);
}

static void stop_front(void *arg)
{
    struct soft_disk *disk = arg;

    disk->stopped = false;
    front_stop(disk->front, on_stopped, disk);
}

static void free_front(void *arg)
{
    struct soft_disk *disk = arg;

    front_free(TAKE_PTR(disk->front));
}

/* Layers stop on the thread that they ran on: the loop's. */
void soft_disk_stop(struct soft_disk *disk)
{
    loop_call(disk->loop, stop_front, disk);
    while (!__atomic_load_n(&disk->stopped, __ATOMIC_ACQUIRE))
        usleep(100);
    loop_call(disk->loop, free_front, disk);
    device_stop(disk->dev);
    device_free(disk->dev);
    loop_stop(disk->loop);
    pthread_join(disk->thread, NULL);
    loop_free(disk->loop);
    unlink(disk->socket);
}

/* SPDX-License-Identifier: MIT */
/*
 * test_cgroup.c - a group for the worker, in a folder that looks like a control group: what is
 * written where, and what is said where the host does not allow it. With a real one: tests/system/test_cgroup.py.
 */
#include "control/cgroup.h"

#include "control/spawn.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char folder[] = "/tmp/devtap-cgroup-XXXXXX";

static void put(const char *name, const char *text)
{
    char path[256];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static const char *get(const char *name)
{
    static char text[256];
    char path[256];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    file = fopen(path, "r");
    text[file ? fread(text, 1, sizeof(text) - 1, file) : 0] = '\0';
    if (file)
        fclose(file);
    return text;
}

static char *in_group(const char *file)
{
    return xasprintf("devtap-worker-%d/%s", (int)getpid(), file);
}

/* The kernel makes these with the group. */
static void make_group(void)
{
    _cleanup_free_ char *group = in_group(""), *cpu = in_group("cpu.weight"),
                        *io = in_group("io.weight");
    char path[256];

    snprintf(path, sizeof(path), "%s/%s", folder, group);
    mkdir(path, 0755);
    put(cpu, "");
    put(io, "");
}

static int setup(void **state)
{
    strcpy(folder, "/tmp/devtap-cgroup-XXXXXX");
    assert_non_null(mkdtemp(folder));
    put("cgroup.controllers", "cpuset cpu io memory\n");
    put("cgroup.subtree_control", "");
    return 0;
}

static int teardown(void **state)
{
    _cleanup_free_ char *command = xasprintf("rm -r %s", folder);

    return system(command);
}

static void refused(unsigned weight, const char *why)
{
    struct cgroup cgroup;
    struct dt_error err = {""};

    assert_true(cgroup_new(&cgroup, folder, weight, &err) < 0);
    if (!strstr(err.text, why) || !strstr(err.text, folder))
        fail_msg("%s", err.text);
    assert_int_equal(cgroup.fd, -1);
    cgroup_free(&cgroup); /* once more: nothing */
}

/* All is written; and then no process can begin in a folder. */
static void test_weights(void **state)
{
    _cleanup_free_ char *cpu = in_group("cpu.weight"), *io = in_group("io.weight"),
                        *bfq = in_group("io.bfq.weight");

    make_group();
    refused(2500, "no process of this group can begin there");
    assert_string_equal(get(cpu), "2500");
    assert_string_equal(get(io), "default 2500");
    assert_string_equal(get(bfq), "");
    put(bfq, "");
    refused(2500, "no process of this group can begin there");
    assert_string_equal(get(bfq), "default 1000");
}

static void test_not_allowed(void **state)
{
    char path[256];

    refused(100, "cpu.weight"); /* a group that has none */
    put("cgroup.controllers", "cpuset memory\n");
    refused(100, "no processor time");
    snprintf(path, sizeof(path), "%s/cgroup.controllers", folder);
    unlink(path);
    refused(100, "no cgroup v2");
}

/* Where a hierarchy is mounted that we may change: a child begins its life in the group. */
static void test_born_there(void **state)
{
    static const char *const mounts[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
    struct spawn spawn = {.argv = (const char *const[]){"cat", "/proc/self/cgroup", NULL},
                          .cgroup = -1};
    struct child child;
    struct dt_error err;
    char path[256] = "", out[4096] = "";
    siginfo_t info;
    int fds[2];

    for (unsigned i = 0; i < ARRAY_SIZE(mounts) && spawn.cgroup < 0; i++) {
        snprintf(path, sizeof(path), "%s/devtap-test-%d", mounts[i], (int)getpid());
        if (mkdir(path, 0755) < 0)
            continue;
        spawn.cgroup = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (faccessat(spawn.cgroup, "cgroup.procs", W_OK, 0) < 0) { /* not of a hierarchy */
            close(spawn.cgroup);
            spawn.cgroup = -1;
            rmdir(path);
        }
    }
    if (spawn.cgroup < 0)
        skip();
    spawn.program = open("/bin/cat", O_PATH | O_CLOEXEC);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    int saved = dup(2);
    dup2(fds[1], 2); /* where a child's output goes */
    assert_int_equal(spawn_start(&child, &spawn, &err), 0);
    dup2(saved, 2);
    close(saved);
    close(fds[1]);
    assert_int_equal(waitid(P_PIDFD, (id_t)child.pidfd, &info, WEXITED), 0);
    assert_true(read(fds[0], out, sizeof(out) - 1) > 0);
    assert_non_null(strstr(out, strrchr(path, '/')));
    close(fds[0]);
    close(child.pidfd);
    close(spawn.program);
    close(spawn.cgroup);
    assert_int_equal(rmdir(path), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_weights, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_allowed, setup, teardown),
        cmocka_unit_test(test_born_there),
    };

    return cmocka_run_group_tests_name("cgroup", tests, NULL, NULL);
}

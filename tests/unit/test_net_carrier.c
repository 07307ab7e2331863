/* SPDX-License-Identifier: MIT */
/* test_net_carrier.c - what the kernel says of an interface's link, with one end of a veth pair in a network namespace of the
 * test's own. */
#include "tests/unit/net_peer.h"

#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cmocka.h>

#define MAKE                                                              \
    "{ ip link add card1 type veth peer name far1 && ip link set far1 up" \
    " && ip link set card1 up; } 2>/dev/null"
#define FLOOD /* more than the socket of whoever listens holds */ \
    "for i in $(seq 1000); do echo link set lo mtu $((1500 + i)); done | ip -batch -"

static bool possible;

extern const struct dt_net_ext net_packet;

static void run(const char *command)
{
    assert_int_equal(system(command), 0);
}

static uint8_t link_now(void)
{
    return device_net_info(rig.dev)->link;
}

static void start(void)
{
    if (!possible)
        skip();
    run(MAKE);
    rig_start("packet ifname=card1");
    TURN_UNTIL(link_now() == DT_LINK_UP);
}

static void turn_often(void)
{
    for (unsigned i = 0; i < 100; i++)
        rig_turn();
}

static int delete (void **state)
{
    return possible && system("ip link del card1 2>/dev/null || ip link del far1 2>/dev/null") < 0;
}

/* Leaving a bridge is told as the end of the bridge's port, with the interface's number. */
static void test_bridge(void **state)
{
    start();
    run("ip link add br1 type bridge && ip link set br1 up && ip link set card1 master br1");
    turn_often();
    assert_int_equal(link_now(), DT_LINK_UP);
    run("ip link set card1 nomaster && ip link del br1");
    turn_often();
    assert_int_equal(link_now(), DT_LINK_UP);
    run("ip link set card1 down");
    TURN_UNTIL(link_now() == DT_LINK_DOWN);
    rig_stop();
}

static void test_overrun(void **state)
{
    start();
    for (unsigned i = 0; i < 2; i++) {
        run(FLOOD);
        run("ip link set card1 down");
        TURN_UNTIL(link_now() == DT_LINK_DOWN);
        run(FLOOD);
        run("ip link set card1 up");
        TURN_UNTIL(link_now() == DT_LINK_UP);
    }
    run(FLOOD);
    run("ip link del card1");
    TURN_UNTIL(link_now() == DT_LINK_DOWN);
    rig_stop();
}

static void test_moves(void **state)
{
    char command[100], byte;
    int ready[2];
    pid_t elsewhere;

    start();
    assert_int_equal(pipe(ready), 0);
    elsewhere = fork();
    if (elsewhere == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* where the test fails */
        if (unshare(CLONE_NEWNET) < 0 || write(ready[1], "", 1) != 1)
            _exit(1);
        pause();
        _exit(0);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    snprintf(command, sizeof(command), "ip link set card1 netns %d", elsewhere);
    run(command);
    TURN_UNTIL(link_now() == DT_LINK_UNKNOWN);
    turn_often();
    assert_int_equal(link_now(), DT_LINK_UNKNOWN);
    kill(elsewhere, SIGKILL);
    waitpid(elsewhere, NULL, 0);
    rig_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_bridge, delete),
        cmocka_unit_test_teardown(test_overrun, delete),
        cmocka_unit_test_teardown(test_moves, delete),
    };

    CHECK(registry_add_net(&net_packet, &rig.err) == 0);
    possible = (unshare(CLONE_NEWNET) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0) &&
               system(MAKE) == 0;
    delete (NULL);
    if (!possible)
        print_message("no network namespace or no iproute2 here: nothing is tested\n");
    return cmocka_run_group_tests(tests, NULL, NULL);
}

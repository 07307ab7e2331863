/* SPDX-License-Identifier: MIT */
/*
 * kill.h - kill points: places where a process must be able to die at any moment, so that tests can
 * make it die there. Only in builds with -Dkill_points=true; else they are nothing.
 *
 * DEVTAP_KILL=NAME:COUNT ends the process at the COUNT-th time that it comes by.
 */
#ifndef BASE_KILL_H
#define BASE_KILL_H

#ifdef DEVTAP_KILL_POINTS
void kill_point(const char *name);
/* With this status, where a process cannot kill itself: the first one of a namespace. */
#define KILL_STATUS      137
#define KILL_POINT(name) kill_point(name)
#else
#define KILL_STATUS      (-1)
#define KILL_POINT(name) ((void)0)
#endif

#endif

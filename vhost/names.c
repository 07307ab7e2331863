/* SPDX-License-Identifier: MIT */
/*
 * names.c - every request's name and shape: payload size, descriptors, ring index.
 *
 * Source: QEMU docs/interop/vhost-user.rst, "Front-end message types", and what front ends really
 * send where that is wider: SET_MEM_TABLE at its full size whatever the count (SPDK), GET_CONFIG
 * with or without the data, one descriptor with REM_MEM_REG, inflight payloads of 20 or 24 bytes.
 */
#include "vhost/internal.h"

#define STATE    8, 8   /* index and number */
#define RING     40, 40 /* ring addresses */
#define U64      8, 8   /* a number, or a ring index with flags */
#define NOTHING  0, 0
#define ANY_SIZE 0, 512
#define NO_FDS   0, 0
#define ANY_FDS  0, VHOST_MAX_FDS
#define MAYBE_FD 0, 1
#define ONE_FD   1, 1
#define CONFIG   12, 12 + VHOST_MAX_CONFIG
#define REGION   40, 40
#define INFLIGHT 20, 24

static const struct vhost_shape shapes[VHOST_REQUEST_END] = {
    [VHOST_GET_FEATURES] = {"GET_FEATURES", NOTHING, NO_FDS},
    [VHOST_SET_FEATURES] = {"SET_FEATURES", U64, NO_FDS},
    [VHOST_SET_OWNER] = {"SET_OWNER", NOTHING, NO_FDS},
    [VHOST_RESET_OWNER] = {"RESET_OWNER", NOTHING, NO_FDS},
    [VHOST_SET_MEM_TABLE] = {"SET_MEM_TABLE", 8, 8 + 8 * 32, ANY_FDS},
    [VHOST_SET_LOG_BASE] = {"SET_LOG_BASE", 8, 16, MAYBE_FD},
    [VHOST_SET_LOG_FD] = {"SET_LOG_FD", 0, 8, MAYBE_FD},
    [VHOST_SET_VRING_NUM] = {"SET_VRING_NUM", STATE, NO_FDS, INDEX_U32},
    [VHOST_SET_VRING_ADDR] = {"SET_VRING_ADDR", RING, NO_FDS, INDEX_U32},
    [VHOST_SET_VRING_BASE] = {"SET_VRING_BASE", STATE, NO_FDS, INDEX_U32},
    [VHOST_GET_VRING_BASE] = {"GET_VRING_BASE", STATE, NO_FDS, INDEX_U32},
    [VHOST_SET_VRING_KICK] = {"SET_VRING_KICK", U64, MAYBE_FD, INDEX_U8},
    [VHOST_SET_VRING_CALL] = {"SET_VRING_CALL", U64, MAYBE_FD, INDEX_U8},
    [VHOST_SET_VRING_ERR] = {"SET_VRING_ERR", U64, MAYBE_FD, INDEX_U8},
    [VHOST_GET_PROTOCOL_FEATURES] = {"GET_PROTOCOL_FEATURES", NOTHING, NO_FDS},
    [VHOST_SET_PROTOCOL_FEATURES] = {"SET_PROTOCOL_FEATURES", U64, NO_FDS},
    [VHOST_GET_QUEUE_NUM] = {"GET_QUEUE_NUM", NOTHING, NO_FDS},
    [VHOST_SET_VRING_ENABLE] = {"SET_VRING_ENABLE", STATE, NO_FDS, INDEX_U32},
    [VHOST_SEND_RARP] = {"SEND_RARP", U64, NO_FDS},
    [VHOST_NET_SET_MTU] = {"NET_SET_MTU", U64, NO_FDS},
    [VHOST_SET_BACKEND_REQ_FD] = {"SET_BACKEND_REQ_FD", NOTHING, ONE_FD},
    [VHOST_IOTLB_MSG] = {"IOTLB_MSG", 26, 32, NO_FDS},
    [VHOST_SET_VRING_ENDIAN] = {"SET_VRING_ENDIAN", STATE, NO_FDS, INDEX_U32},
    [VHOST_GET_CONFIG] = {"GET_CONFIG", CONFIG, NO_FDS},
    [VHOST_SET_CONFIG] = {"SET_CONFIG", CONFIG, NO_FDS},
    [VHOST_CREATE_CRYPTO_SESSION] = {"CREATE_CRYPTO_SESSION", ANY_SIZE, ANY_FDS},
    [VHOST_CLOSE_CRYPTO_SESSION] = {"CLOSE_CRYPTO_SESSION", ANY_SIZE, ANY_FDS},
    [VHOST_POSTCOPY_ADVISE] = {"POSTCOPY_ADVISE", ANY_SIZE, ANY_FDS},
    [VHOST_POSTCOPY_LISTEN] = {"POSTCOPY_LISTEN", ANY_SIZE, ANY_FDS},
    [VHOST_POSTCOPY_END] = {"POSTCOPY_END", ANY_SIZE, ANY_FDS},
    [VHOST_GET_INFLIGHT_FD] = {"GET_INFLIGHT_FD", INFLIGHT, NO_FDS},
    [VHOST_SET_INFLIGHT_FD] = {"SET_INFLIGHT_FD", INFLIGHT, ONE_FD},
    [VHOST_GPU_SET_SOCKET] = {"GPU_SET_SOCKET", ANY_SIZE, ANY_FDS},
    [VHOST_RESET_DEVICE] = {"RESET_DEVICE", NOTHING, NO_FDS},
    [VHOST_VRING_KICK] = {"VRING_KICK", STATE, NO_FDS, INDEX_U32},
    [VHOST_GET_MAX_MEM_SLOTS] = {"GET_MAX_MEM_SLOTS", NOTHING, NO_FDS},
    [VHOST_ADD_MEM_REG] = {"ADD_MEM_REG", REGION, ONE_FD},
    [VHOST_REM_MEM_REG] = {"REM_MEM_REG", REGION, MAYBE_FD},
    [VHOST_SET_STATUS] = {"SET_STATUS", U64, NO_FDS},
    [VHOST_GET_STATUS] = {"GET_STATUS", NOTHING, NO_FDS},
    [VHOST_GET_SHARED_OBJECT] = {"GET_SHARED_OBJECT", ANY_SIZE, ANY_FDS},
    [VHOST_SET_DEVICE_STATE_FD] = {"SET_DEVICE_STATE_FD", ANY_SIZE, ANY_FDS},
    [VHOST_CHECK_DEVICE_STATE] = {"CHECK_DEVICE_STATE", ANY_SIZE, ANY_FDS},
};

const struct vhost_shape *vhost_shape(uint32_t request)
{
    return request < ARRAY_SIZE(shapes) && shapes[request].name ? &shapes[request] : NULL;
}

const char *vhost_request_name(uint32_t request)
{
    const struct vhost_shape *shape = vhost_shape(request);

    return shape ? shape->name : "an unknown request";
}

/* SPDX-License-Identifier: MIT */
/*
 * client-map.c - the map of a running disk, asked for piece by piece: the process that serves it answers other
 * clients between two of them.
 */
#include "tools/tools.h"

/* Neighbours that are alike are one, over the ends of pieces too. */
static void append(json_t *extents, json_t *piece)
{
    json_t *last = json_array_get(extents, json_array_size(extents) - 1), *extent;
    size_t i;

    json_array_foreach(piece, i, extent)
    {
        json_t *length = json_object_get(last, "length");

        if (length &&
            json_equal(json_object_get(last, "status"), json_object_get(extent, "status"))) {
            json_integer_set(length, json_integer_value(length) +
                                         json_integer_value(json_object_get(extent, "length")));
        } else {
            json_array_append(extents, extent);
            last = extent;
        }
    }
}

int client_map_piece(struct client *client, uint64_t start, uint64_t length, json_t **piece,
                     struct dt_error *err)
{
    json_t *request = json_pack("{ss ss sI sI}", "verb", "map", "device", client_device(client),
                                "start", (json_int_t)start, "length", (json_int_t)length);
    int ret = client_call(client, request, piece, err);

    if (ret < 0 || json_is_array(json_object_get(*piece, "extents")))
        return ret;
    json_decref(*piece);
    return dt_fail(err, -EPROTO, "%s: its answer is not a map", client_path(client));
}

int client_map(struct client *client, uint64_t start, uint64_t length, json_t **map,
               struct dt_error *err)
{
    uint64_t size, next, end;
    json_t *extents = json_array(), *piece;
    int ret;

    do {
        ret = client_map_piece(client, start, length, &piece, err);
        if (ret < 0) {
            json_decref(extents);
            return ret;
        }
        size = (uint64_t)json_integer_value(json_object_get(piece, "size"));
        next = (uint64_t)json_integer_value(json_object_get(piece, "next"));
        end = length && length < size - MIN(start, size) ? start + length : size;
        append(extents, json_object_get(piece, "extents"));
        json_decref(piece);
        if (next <= start)
            break; /* nothing is left, or nothing comes */
        length = length ? end - next : 0;
        start = next;
    } while (next < end);
    *map = json_pack("{sI so}", "size", (json_int_t)size, "extents", extents);
    return 0;
}

/* SPDX-License-Identifier: MIT */
/* describe.h - is the description of an extension free of contradictions? */
#ifndef CORE_DESCRIBE_H
#define CORE_DESCRIBE_H

#include <devtap/block.h>
#include <devtap/net.h>

/** describe_check() - 0, or -EINVAL with a text that names the extension and the mistake. */
int describe_check(const struct dt_block_ext *ext, struct dt_error *err);
/** describe_check_net() - the same. @view: what it has in common with disks, as the registry keeps it. */
int describe_check_net(const struct dt_net_ext *ext, const struct dt_block_ext *view,
                       struct dt_error *err);
/** describe_name_ok() - lower-case letters, digits and dashes, a letter first, at most 31. */
bool describe_name_ok(const char *name);

#endif

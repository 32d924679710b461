# SPDX-License-Identifier: GPL-2.0-or-later
"""Generates what Python needs to know of C: ``_bindings.py`` (cffi, ABI mode) and ``_enums.py``, beside this file.

Run by the build (``python xdpfw/kernel/bindings_build.py``), never at run time. The first file imports in
milliseconds and needs no compiler; the second gives the enums of ``bpf/abi*.h`` to people and type checkers.
"""

from __future__ import annotations

import operator
import re
from pathlib import Path

from cffi import FFI

PACKAGE = Path(__file__).resolve().parent
ABI_NAMES = ("abi.h", "abi_knock.h", "abi_flow.h", "abi_limit.h", "abi_set.h")
ABI_HEADERS = [PACKAGE.parents[1] / "bpf" / name for name in ABI_NAMES]

BEGIN, END = "/* cffi: begin */", "/* cffi: end */"

TYPES = """
typedef uint8_t __u8;
typedef uint16_t __u16;
typedef uint32_t __u32;
typedef uint64_t __u64;
typedef int64_t __s64;
"""

# linux/bpf.h (6.1): leading members, up to the last one that is used. The kernel fills what fits.
KERNEL = """
struct bpf_map_info {
    __u32 type;
    __u32 id;
    __u32 key_size;
    __u32 value_size;
    __u32 max_entries;
    __u32 map_flags;
    char name[16];
};

struct bpf_prog_info {
    __u32 type;
    __u32 id;
    __u8 tag[8];
    __u32 jited_prog_len;
    __u32 xlated_prog_len;
    __u64 jited_prog_insns;
    __u64 xlated_prog_insns;
    __u64 load_time;
    __u32 created_by_uid;
    __u32 nr_map_ids;
    __u64 map_ids;
    char name[16];
};

struct bpf_link_info {
    __u32 type;
    __u32 id;
    __u32 prog_id;
    __u32 padding;
    __u32 xdp_ifindex;
    __u32 padding2;
};

struct xdp_md {
    __u32 data;
    __u32 data_end;
    __u32 data_meta;
    __u32 ingress_ifindex;
    __u32 rx_queue_index;
    __u32 egress_ifindex;
};

struct __sk_buff {
    __u32 len;
    __u32 pkt_type;
    __u32 mark;
    __u32 queue_mapping;
    __u32 protocol;
    __u32 vlan_present;
    __u32 vlan_tci;
    __u32 vlan_proto;
    __u32 priority;
    __u32 ingress_ifindex;
};
"""

# bpf/libbpf.h and bpf/bpf.h of libbpf 1.1.
LIBBPF = """
__u32 libbpf_major_version(void);
__u32 libbpf_minor_version(void);
int libbpf_num_possible_cpus(void);
typedef int (*libbpf_print_fn_t)(int level, const char *format, void *arguments);
libbpf_print_fn_t libbpf_set_print(libbpf_print_fn_t print);

struct bpf_object;
struct bpf_program;
struct bpf_map;

struct bpf_object_open_opts {
    size_t sz;
    const char *object_name;
    bool relaxed_maps;
    const char *pin_root_path;
    __u32 padding;
    const char *kconfig;
    const char *btf_custom_path;
    char *kernel_log_buf;
    size_t kernel_log_size;
    __u32 kernel_log_level;
    size_t :0;
};

struct bpf_object *bpf_object__open_mem(const void *object, size_t size, const struct bpf_object_open_opts *opts);
int bpf_object__load(struct bpf_object *object);
void bpf_object__close(struct bpf_object *object);
struct bpf_program *bpf_object__find_program_by_name(const struct bpf_object *object, const char *name);
struct bpf_map *bpf_object__find_map_by_name(const struct bpf_object *object, const char *name);
int bpf_program__fd(const struct bpf_program *program);
int bpf_program__set_autoload(struct bpf_program *program, _Bool autoload);
int bpf_map__fd(const struct bpf_map *map);
__u32 bpf_map__value_size(const struct bpf_map *map);
int bpf_map__set_max_entries(struct bpf_map *map, __u32 max_entries);
int bpf_map__set_value_size(struct bpf_map *map, __u32 size);
int bpf_map__set_initial_value(struct bpf_map *map, const void *data, size_t size);
int bpf_map__reuse_fd(struct bpf_map *map, int fd);

struct bpf_map_create_opts {
    size_t sz;
    __u32 btf_fd;
    __u32 btf_key_type_id;
    __u32 btf_value_type_id;
    __u32 btf_vmlinux_value_type_id;
    __u32 inner_map_fd;
    __u32 map_flags;
    __u64 map_extra;
    __u32 numa_node;
    __u32 map_ifindex;
};

int bpf_map_create(int type, const char *name, __u32 key_size, __u32 value_size, __u32 max_entries,
                   const struct bpf_map_create_opts *opts);
int bpf_map_freeze(int fd);
int bpf_map_lookup_elem(int fd, const void *key, void *value);
int bpf_map_update_elem(int fd, const void *key, const void *value, __u64 flags);
int bpf_map_delete_elem(int fd, const void *key);

struct bpf_map_batch_opts {
    size_t sz;
    __u64 elem_flags;
    __u64 flags;
};

int bpf_map_lookup_batch(int fd, void *in_batch, void *out_batch, void *keys, void *values, __u32 *count,
                         const struct bpf_map_batch_opts *opts);
int bpf_map_update_batch(int fd, const void *keys, const void *values, __u32 *count,
                         const struct bpf_map_batch_opts *opts);

int bpf_map_delete_batch(int fd, const void *keys, __u32 *count, const struct bpf_map_batch_opts *opts);

struct bpf_insn {
    __u64 bits;
};

struct bpf_prog_load_opts {
    size_t sz;
    int attempts;
    int expected_attach_type;
    __u32 prog_btf_fd;
    __u32 prog_flags;
    __u32 prog_ifindex;
};

int libbpf_probe_bpf_helper(int program_type, int helper, const void *opts);
int bpf_prog_load(int type, const char *name, const char *license, const struct bpf_insn *instructions,
                  size_t count, const struct bpf_prog_load_opts *opts);

struct bpf_test_run_opts {
    size_t sz;
    const void *data_in;
    void *data_out;
    __u32 data_size_in;
    __u32 data_size_out;
    const void *ctx_in;
    void *ctx_out;
    __u32 ctx_size_in;
    __u32 ctx_size_out;
    __u32 retval;
    int repeat;
    __u32 duration;
    __u32 flags;
    __u32 cpu;
    __u32 batch_size;
};

int bpf_prog_test_run_opts(int program_fd, struct bpf_test_run_opts *opts);

int bpf_obj_pin(int fd, const char *path);
int bpf_obj_get(const char *path);
int bpf_obj_get_info_by_fd(int fd, void *info, __u32 *length);
int bpf_prog_get_fd_by_id(__u32 id);
int bpf_map_get_fd_by_id(__u32 id);
int bpf_prog_get_next_id(__u32 start, __u32 *next);
int bpf_map_get_next_id(__u32 start, __u32 *next);
int bpf_link_get_next_id(__u32 start, __u32 *next);

struct bpf_link_create_opts {
    size_t sz;
    __u32 flags;
    void *iter_info;
    __u32 iter_info_len;
    __u32 target_btf_id;
};

struct bpf_link_update_opts {
    size_t sz;
    __u32 flags;
    __u32 old_prog_fd;
};

int bpf_link_create(int program_fd, int target_fd, int attach_type, const struct bpf_link_create_opts *opts);
int bpf_link_update(int link_fd, int new_program_fd, const struct bpf_link_update_opts *opts);
int bpf_link_detach(int link_fd);

struct bpf_xdp_query_opts {
    size_t sz;
    __u32 prog_id;
    __u32 drv_prog_id;
    __u32 hw_prog_id;
    __u32 skb_prog_id;
    __u8 attach_mode;
    size_t :0;
};

struct bpf_xdp_attach_opts {
    size_t sz;
    int old_prog_fd;
    size_t :0;
};

int bpf_xdp_query(int ifindex, int flags, struct bpf_xdp_query_opts *opts);
int bpf_xdp_attach(int ifindex, int program_fd, __u32 flags, const struct bpf_xdp_attach_opts *opts);
int bpf_xdp_detach(int ifindex, __u32 flags, const struct bpf_xdp_attach_opts *opts);
"""

LIBC = """
int vsnprintf(char *buffer, size_t size, const char *format, void *arguments);
int setns(int fd, int type);
int statfs(const char *path, long *status);
int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data);
"""


def shared_declarations() -> str:
    """The parts of the headers that are for cffi."""
    texts = [header.read_text(encoding="utf-8") for header in ABI_HEADERS]
    return "".join(text[text.index(BEGIN) + len(BEGIN) : text.index(END)] for text in texts)


def member_name(tag: str, constant: str) -> str:
    """``("reason", "XDPFW_REASON_DEFAULT")`` → ``"DEFAULT"``; ``("layout", "XDPFW_BLOCK_U16")`` → ``"BLOCK_U16"``."""
    return constant.removeprefix("XDPFW_").removeprefix(f"{tag.upper()}_")


def enums_source(ffi: FFI, declarations: str) -> str:
    """Each ``enum xdpfw_some_tag`` as ``class SomeTag(enum.IntEnum)``.

    A member ``COUNT`` becomes a plain integer of the class, so that walking over the class gives what there is.
    """
    lines = [
        "# SPDX-License-Identifier: GPL-2.0-or-later",
        '"""Generated from bpf/abi*.h by bindings_build.py."""',
        "",
        "import enum",
    ]
    names = []
    for tag in re.findall(r"^enum xdpfw_(\w+) \{", declarations, re.MULTILINE):
        name = "".join(word.capitalize() for word in tag.split("_"))
        names.append(name)
        lines += ["", "", f"class {name}(enum.IntEnum):"]
        constants: dict[str, int] = ffi.typeof(f"enum xdpfw_{tag}").relements
        for constant, value in sorted(constants.items(), key=operator.itemgetter(1)):
            member = member_name(tag, constant)
            lines.append(f"    {member} = {f'enum.nonmember({value})' if member == 'COUNT' else value}")
    lines[4:4] = ["", "__all__ = [", *(f'    "{name}",' for name in sorted(names)), "]"]
    return "\n".join(lines) + "\n"


def main() -> None:
    declarations = shared_declarations()
    ffi = FFI()
    ffi.cdef(TYPES + declarations + KERNEL + LIBBPF + LIBC)
    ffi.set_source("xdpfw.kernel._bindings", None)
    ffi.emit_python_code(str(PACKAGE / "_bindings.py"))
    (PACKAGE / "_enums.py").write_text(enums_source(ffi, declarations), encoding="utf-8")


if __name__ == "__main__":
    main()

#!/bin/sh
# Runs a command with allocator settings that suit training on a CPU:
#     launch/cpu_env.sh python -m tvconv_jax.main --config=configs/face_mb01.py
# XLA allocates each step's buffers anew. By default glibc gives them back to the system after every step, and the
# next one pays a page fault per 4 KiB; here they stay with the process (no mmap, no trimming) on huge pages.
# Elsewhere than on glibc, or where GLIBC_TUNABLES is set already, the command runs as it is.
if [ -z "${GLIBC_TUNABLES:-}" ] && getconf GNU_LIBC_VERSION >/dev/null 2>&1; then
  tunables=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776
  export GLIBC_TUNABLES="$tunables"
fi
exec "$@"

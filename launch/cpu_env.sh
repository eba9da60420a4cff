#!/bin/sh
# Runs a command with the allocator setting that suits training on a CPU:
#     launch/cpu_env.sh python -m tvconv_jax.main --config=configs/face_mb01.py
# XLA allocates each step's buffers again, over a gigabyte, and the system hands them out one page fault per 4 KiB; on
# huge pages there is one fault per 2 MiB. MobileNetV2 x0.1 with TVConv, batch 64, 2 cores: 1.5 times as fast.
# Elsewhere than on glibc, or where GLIBC_TUNABLES is set already, the command runs as it is.
case ${1:---help} in
  -h|--help) echo "usage: ${CALLED_AS:-launch/cpu_env.sh} command ..."; sed -n '2,$ { /^#/!q; /^#SBATCH/!s/^# \{0,1\}//p; }' "$0"; exit ;;
esac
if [ -z "${GLIBC_TUNABLES:-}" ] && getconf GNU_LIBC_VERSION >/dev/null 2>&1; then
  export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
fi
exec "$@"

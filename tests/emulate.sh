#!/bin/sh
# Builds the package for AArch64 on a machine of another kind, and runs tests of its NEON table under emulation.
#
#   tests/emulate.sh [ARGUMENT...]    pytest's arguments; without any, a part of the operations' tests
#
# For Debian, as root, with its packages debootstrap, gcc-aarch64-linux-gnu and qemu-user. PYTHON names the interpreter,
# of the same minor version as the distribution's own, with the package's build requirements. MIRROR, if set, is where
# Debian's packages come from.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

. /etc/os-release
debootstrap --arch=arm64 --foreign --variant=minbase --include=python3,libgomp1 "$VERSION_CODENAME" "$work/system" \
    ${MIRROR-} >"$work/debootstrap.log" 2>&1 || { tail -20 "$work/debootstrap.log"; exit 1; }
for package in "$work"/system/var/cache/apt/archives/*.deb; do
    dpkg-deb -x "$package" "$work/system"
done
[ -x "$work/system/usr/bin/python$version" ] ||
    { echo "$VERSION_CODENAME has no Python $version, which $python is" >&2; exit 2; }

numpy=$("$python" -c 'import numpy; print(numpy.__version__)')
"$python" -m pip download -q --only-binary=:all: --python-version "$version" --implementation cp \
    --abi "cp$(echo "$version" | tr -d .)" --abi abi3 --abi none \
    --platform manylinux_2_17_aarch64 --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 \
    -d "$work/wheels" "numpy==$numpy" safetensors tqdm pytest hypothesis
for wheel in "$work"/wheels/*.whl; do
    "$python" -m zipfile -e "$wheel" "$work/site"
done

cp -r "$root/fastcnn" "$root/tests" "$root/setup.py" "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$work"
cd "$work"
find fastcnn -name '*.so' -delete
# Headers of the interpreter here will do: the sizes in them are the same.
CC=aarch64-linux-gnu-gcc LDSHARED='aarch64-linux-gnu-gcc -shared' \
    SETUPTOOLS_EXT_SUFFIX=".cpython-$(echo "$version" | tr -d .)-aarch64-linux-gnu.so" \
    "$python" setup.py -q build_ext --inplace >build.log 2>&1 || { tail -50 build.log; exit 1; }

[ $# -gt 0 ] || set -- -k 'neon and thread and float32' tests/test_matmul.py tests/test_winograd.py tests/test_pool.py
PYTHONPATH="$work:$work/site" qemu-aarch64 -L "$work/system" "$work/system/usr/bin/python$version" \
    -m pytest -q -p no:cacheprovider "$@"

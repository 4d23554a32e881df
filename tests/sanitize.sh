#!/bin/sh
# Runs the compiled code under tools that see what tests cannot.
#
#   tests/sanitize.sh [TEST...]    AddressSanitizer and UndefinedBehaviorSanitizer, on the tests named
#   tests/sanitize.sh valgrind     valgrind, on a tenth of the cases of test_guard_pages.py
#
# The package is built from a copy, in which scratch memory, and that of arrays, is as large as asked for and never used
# again, so that an overrun of it is seen. PYTHON names the interpreter; it needs the package's build and test requirements.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

cp -r "$root/fastcnn" "$root/tests" "$root/setup.py" "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$work"
cd "$work"
find . -name '*.so' -delete
rm -f fastcnn/_core/_*.c
sed -i -e 's/^    size = ((size + size \/\/ 8) | 4095) + 1$/    size = size or 1/' \
       -e 's/^cdef size_t KEPT_BYTES = 256 << 20$/cdef size_t KEPT_BYTES = 0/' fastcnn/_core/_runtime.pyx
sed -i 's/^    LARGE = 16384$/    LARGE = 0x7fffffff/' fastcnn/_core/_memory.pyx
grep -q 'LARGE = 0x7fffffff' fastcnn/_core/_memory.pyx || { echo "LARGE has changed: adapt $0" >&2; exit 2; }
grep -q 'size = size or 1' fastcnn/_core/_runtime.pyx && grep -q 'KEPT_BYTES = 0' fastcnn/_core/_runtime.pyx ||
    { echo "acquire() has changed: adapt $0" >&2; exit 2; }

if [ "${1-}" = valgrind ]; then
    CFLAGS='-g' "$python" setup.py -q build_ext --inplace >build.log 2>&1 || { tail -50 build.log; exit 1; }
    # The dynamic loader compares strings word by word, past their ends; what the interpreter has from getrandom()
    # valgrind takes for undefined.
    printf '{\n  loader\n  Memcheck:Addr8\n  ...\n  fun:_dl_map_object\n}\n' >known.supp
    for error in Cond Value8; do
        printf '{\n  interpreter\n  Memcheck:%s\n  obj:*/libpython*\n}\n' "$error" >>known.supp
        printf '{\n  interpreter\n  Memcheck:%s\n  obj:*/bin/python*\n}\n' "$error" >>known.supp
    done
    # valgrind does not know AVX-512; Python's own allocator would hide overruns of its objects.
    for dtype in float32 float64; do
        FASTCNN_ISA=avx2 FASTCNN_NUM_THREADS=1 PYTHONMALLOC=malloc PYTHONPATH="$work" valgrind --quiet \
            --error-exitcode=9 --num-callers=20 --suppressions=known.supp \
            "$python" tests/test_guard_pages.py avx2 "$dtype" "$work/case" 10
    done
    exit
fi

[ $# -gt 0 ] || set -- tests/test_conv.py tests/test_matmul.py tests/test_pool.py tests/test_activations.py \
    tests/test_guard_pages.py
flags='-fsanitize=address,undefined -fno-omit-frame-pointer -g -O1'
compiler=${CC:-cc}
sed -i 's/"-O3"/"-O1"/' setup.py
# As part of the compiler's name the flags also reach the probe for OpenMP.
CC="$compiler $flags" CFLAGS='-g' "$python" setup.py -q build_ext --inplace >build.log 2>&1 || { tail -50 build.log; exit 1; }
export LD_PRELOAD="$($compiler -print-file-name=libasan.so):$($compiler -print-file-name=libubsan.so)"
# Reports go to files: pytest would swallow what a dying process wrote.
export ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1:log_path=$work/report"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:log_path=$work/report"
export PYTHONMALLOC=malloc PYTHONPATH="$work"
status=0
# That test dies of a stray access on purpose.
"$python" -m pytest -v -p no:cacheprovider --deselect tests/test_guard_pages.py::test_the_guard_bites "$@" || status=$?
for report in "$work"/report*; do
    [ ! -f "$report" ] || { cat "$report"; status=1; }
done
exit $status

"""Builds the compiled part; everything else about the package is in pyproject.toml.

What is built depends on the target platform's compiler, never on the CPU of the build machine: each
instruction set's kernel table is compiled where the compiler accepts its flags for that target, and the
running CPU picks among them at import.
"""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext as _build_ext
from setuptools.errors import CompileError, LinkError

CORE = Path("fastcnn/_core")
KERNELS = CORE / "kernels"
MODULES = [
    "_runtime",
    "_memory",
    "_gemm",
    "_conv",
    "_winograd",
    "_narrow",
    "_depthwise",
    "_pointwise",
    "_pool",
    "_elementwise",
]

# Flags that let a stub use its instruction set, and the macro that the target must define.
ISAS = {
    "scalar": ("__STDC__", []),
    "sse2": ("__x86_64__", []),
    "avx2": ("__x86_64__", ["-mavx2", "-mfma"]),
    "avx512": ("__x86_64__", ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]),
    "neon": ("__aarch64__", []),
}
OPTIMIZE = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
# Debugging symbols would double the wheel, and names take a fiftieth of it; who wants them asks for them, by CFLAGS=-g.
SYMBOLS, STRIP = ([], []) if "-g" in os.environ.get("CFLAGS", "").split() else (["-g0"], ["-s"])
OPENMP = ["-fopenmp"]
# Where the linker knows them: regions of one thread go to kernels/serial.c.
WRAP = ["-Wl,--wrap=GOMP_parallel"]
MAIN = """
int omp_get_max_threads(void);
int main(void) { return omp_get_max_threads() < 1; }
"""


class build_ext(_build_ext):
    """Compiles the kernel tables with flags of their own, and with OpenMP where there is one."""

    def finalize_options(self):
        """Let every CPU compile a file, unless the command says how many shall."""
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self):
        """Give every module its flags, and the runtime the kernel tables."""
        openmp = [] if os.environ.get("FASTCNN_NO_OPENMP", "0") not in ("", "0") else self.openmp_flags()
        wrapped = bool(openmp) and self.compiles((KERNELS / "serial.c").read_text() + MAIN, openmp + WRAP, link=True)
        for extension in self.extensions:
            extension.extra_compile_args += OPTIMIZE + SYMBOLS + openmp
            extension.extra_link_args += openmp + STRIP
            if wrapped:
                extension.extra_objects += self.compile_kernel("serial.c", [])
                extension.extra_link_args += WRAP
            if extension.name.endswith("._runtime"):
                extension.extra_objects += self.kernel_objects()
                extension.depends += [str(path) for path in KERNELS.iterdir()]
        super().build_extensions()

    def kernel_objects(self):
        """Compile every kernel table that the target can have, and the dispatch that lists them."""
        isas = {
            isa: flags
            for isa, (macro, flags) in ISAS.items()
            if self.compiles(f"#ifndef {macro}\n#error other target\n#endif\nint x;\n", flags)
        }
        if len(isas) > 1:
            isas["scalar"] = ["-Os"]  # no CPU of this target takes it unasked: it need not be fast, but small
        with ThreadPoolExecutor(self.parallel) as pool:
            tables = pool.map(lambda isa: self.compile_kernel(f"isa_{isa}.c", isas[isa]), isas)
            objects = [name for names in tables for name in names]
        return objects + self.compile_kernel("dispatch.c", [], [(f"FC_HAVE_{isa.upper()}", "1") for isa in isas])

    def compile_kernel(self, source, flags, macros=()):
        """Compile one C file of the kernels with flags of its own."""
        return self.compiler.compile(
            [str(KERNELS / source)],
            output_dir=self.build_temp,
            macros=list(macros),
            depends=[str(path) for path in KERNELS.iterdir()],
            extra_postargs=[*OPTIMIZE, *SYMBOLS, *flags],
        )

    def openmp_flags(self):
        """Return OpenMP's flags, none where the compiler cannot link it."""
        return OPENMP if self.compiles("#include <omp.h>\n" + MAIN, OPENMP, link=True) else []

    def compiles(self, code, flags, link=False):
        """Whether the target's compiler takes this code with these flags."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(code)
            try:
                objects = self.compiler.compile([str(source)], folder, extra_postargs=flags)
                if link:
                    self.compiler.link_executable(objects, "probe", folder, extra_postargs=flags)
            except (CompileError, LinkError):
                return False
        return True


setup(
    cmdclass={"build_ext": build_ext},
    ext_modules=cythonize(
        [
            Extension(
                f"fastcnn._core.{name}",
                [str(CORE / f"{name}.pyx")],
                include_dirs=[str(KERNELS), numpy.get_include()],
                define_macros=[
                    (f"NPY_{use}", "NPY_1_25_API_VERSION") for use in ("NO_DEPRECATED_API", "TARGET_VERSION")
                ],
                depends=[str(KERNELS / "kernels.h"), str(KERNELS / "serial.c")],
            )
            for name in MODULES
        ],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
        },
    ),
)

"""Where the seconds of a run go, file by file: `pytest --compile-seconds` prints how many of them JAX takes to compile.

Of a process that a test starts (a kernel, a script) the programs are not counted, and its processor seconds only where
the test waits for its end. On a machine that others use too, `cpu` is the column to compare.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Generator

import jax
import pytest

COMPILING = "/jax/core/compile/backend_compile_duration"
"""XLA's part, and that of reading a program back from the cache on disk."""
LOADING = "/jax/compilation_cache/cache_retrieval_time_sec"
TRACING = "/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration"


class CompileSeconds:
    """A plugin of pytest: the seconds that JAX reports are added to the reports of tests, and summed by file.

    Reports are what pytest-xdist sends to the process that prints.
    """

    def __init__(self) -> None:
        self.files: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.spent: Counter[str] = Counter()
        self.traced: list[tuple[float, float]] = []
        self.processor = self.processor_seconds()
        jax.monitoring.register_event_duration_secs_listener(self.listen)

    @staticmethod
    def processor_seconds() -> float:
        return sum(os.times()[:4])

    def listen(self, event: str, seconds: float, **_: object) -> None:
        if event == COMPILING:
            self.spent.update(compile=seconds, programs=1)
        elif event == LOADING:
            self.spent.update(load=seconds, loaded=1)
        elif event in TRACING:
            end = time.perf_counter()
            while self.traced and self.traced[-1][0] >= end - seconds:  # a function within this one
                self.traced.pop()
            self.traced.append((end - seconds, end))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        self.spent["trace"] += sum(end - begin for begin, end in self.traced)
        before, self.processor = self.processor, self.processor_seconds()
        self.spent["cpu"] += self.processor - before
        report.compile_seconds = dict(self.spent)
        self.spent.clear()
        self.traced.clear()
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = report.nodeid.split("::")[0]
        self.files[file].update(seconds=report.duration, **getattr(report, "compile_seconds", {}))  # none after a crash

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("seconds by file")
        columns = ("seconds", "cpu", "trace", "compile", "load", "programs", "loaded")
        width = max(map(len, self.files), default=0)
        terminalreporter.write_line(" " * width + "".join(f"{column:>10}" for column in columns))
        total: Counter[str] = Counter()
        for file, spent in sorted(self.files.items(), key=lambda entry: -entry[1]["seconds"]):
            total.update(spent)
            terminalreporter.write_line(f"{file:{width}}" + "".join(f"{spent[name]:10.0f}" for name in columns))
        terminalreporter.write_line(f"{'all':{width}}" + "".join(f"{total[name]:10.0f}" for name in columns))

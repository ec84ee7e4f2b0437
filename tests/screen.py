"""What a terminal shows of a text with control codes: a small screen, for progress bars."""

import contextlib
import io
import re
from collections.abc import Iterator

_TOKEN = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


class Terminal(io.StringIO):
    """A stream that says it is a terminal and keeps what is written to it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Be stdout and stderr inside."""
        with contextlib.redirect_stdout(self), contextlib.redirect_stderr(self):
            yield

    def frames(self) -> list[list[str]]:
        """Every state of the screen, at each line's end and each return of the cursor; the last is what stays."""
        lines, row, column, states = [""], 0, 0, []
        for token in _TOKEN.finditer(self.getvalue()):
            text, code = token[0], token[2]
            if text == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            elif text == "\r":
                column = 0
            elif code == "A":
                row -= int(token[1] or 1)
            elif code == "K":
                lines[row] = "" if token[1] == "2" else lines[row][:column]
            elif code is None:
                line = lines[row].ljust(column)
                lines[row] = line[:column] + text + line[column + len(text) :]
                column += len(text)
            if code is None and text not in "\r\n" or code not in (None, "A", "K"):
                continue
            states.append([line.rstrip() for line in lines])
        return [*states, [line.rstrip() for line in lines]]

    def bars(self) -> list[str]:
        """Every bar that was ever shown, without its drawing."""
        found = [re.sub(r"\s*[━╸╺]+\s*", " | ", line) for state in self.frames() for line in state if "━" in line]
        return list(dict.fromkeys(found))

"""One line a check, and the count at the end."""
class Skip(Exception):
    """A check that cannot be done here: what is missing."""


class Report:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def check(self, name, test, *arguments):
        """test(*arguments) gives (whether it holds, what was measured).  An error of any kind is a failure: the others go on."""
        try:
            good, found = test(*arguments)
        except Skip as missing:
            self.skipped += 1
            return self.line("skipped", name, missing)
        except Exception as error:
            good, found = False, "%s: %s" % (type(error).__name__, error)
        self.passed += bool(good)
        self.failed += not good
        return self.line("passed" if good else "FAILED", name, found)

    def line(self, verdict, name, found):
        print("%-8s%s: %s" % (verdict, name, " ".join(str(found).split())), flush=True)

    def end(self):
        print("%d passed, %d failed, %d skipped" % (self.passed, self.failed, self.skipped))
        return 0 if self.failed == 0 and self.passed else 1

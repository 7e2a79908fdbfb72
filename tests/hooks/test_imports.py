import subprocess
import sys


def test_the_package_does_not_import_transformerlens_by_itself():
    code = "import sys, emg_lens.hooks; sys.exit('transformer_lens' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

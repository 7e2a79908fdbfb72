import subprocess
import sys


def test_the_package_does_not_import_transformerlens_by_itself():
    code = "import sys, emg_lens.hooks; sys.exit('transformer_lens' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_compatibility_table_is_a_command():
    code = "import emg_lens.hooks.compatibility as c; c.zoo = lambda: []; c.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("TransformerLens ")

"""--max-memory is kept: by the peak resident memory of the whole process, as the kernel counted it.

usage: test_memory.py ONNX_MPQ MODELS FOLDER
"""
import os
import re
import shutil
import subprocess
import sys

program, models, folder = sys.argv[1:]
digits = [os.path.join(models, "digits_cnn.onnx"), "--data", os.path.join(models, "digits_calib.npz"),
          "--preprocess", "unit", "--threads", "1"]


def run(*arguments):
    """Exit code, what was said, peak resident bytes."""
    log = os.path.join(folder, "log.txt")
    with open(log, "wb") as file:
        child = subprocess.Popen([program, *arguments], stdout=file, stderr=file)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    with open(log, encoding="utf-8") as file:
        return child.returncode, file.read(), usage.ru_maxrss * 1024


def convert(name, limit, *more):
    path = os.path.join(folder, name + ".onnx")
    code, text, peak = run("convert", *digits, "--size", "15%", "-o", path, "-v", "--overwrite",
                           *(["--max-memory", limit] if limit else []), *more)
    data = None
    if code == 0:
        with open(path, "rb") as file:
            data = file.read()
    return code, text, peak, data


def least_of(text):
    found = re.search(r"--max-memory of .* cannot be kept: '\w+' takes (\d+) MB with one sample at a time, "
                      r"which is the least possible", text)
    assert found, text
    return int(found.group(1))


def stages(text):
    """{stage: (samples, activations, recomputed, in all)}"""
    line = r"memory: (\w+) +(\d+) samples? at a time, activations ([\d.]+) MB, (\d+) % of a pass run again, ([\d.]+) MB"
    return {m[1]: (int(m[2]), float(m[3]), int(m[4]), float(m[5])) for m in re.finditer(line, text)}


def check_refused():
    code, text, _, data = convert("refused", "10M", "--steps", "5")
    assert code == 4 and data is None, (code, text)
    return least_of(text)


def check_kept(least):
    """From the least that was named on: each run stays within its limit and its plan."""
    _, text, peak, free = convert("free", None, "--steps", "5")
    assert not stages(text)
    for limit in least, (least + peak // 1000000) // 2:
        code, text, peak, data = convert("kept", f"{limit}MB", "--steps", "5")
        plan = stages(text)
        print(f"limit {limit} MB, peak {peak / 1e6:.1f} MB, tuned on {plan['tune'][0]} samples at a time")
        assert code == 0, text
        assert peak <= limit * 1e6, (peak, limit)
        assert max(row[3] for row in plan.values()) <= limit
        assert {"calibrate", "evaluate", "round", "tune", "search", "refine", "verify"} == set(plan)
    again = convert("kept", f"{limit}MB", "--steps", "5")[3]
    assert again == data, "another file from the same command"
    wide = convert("wide", "2G", "--steps", "5")[3]
    assert wide == free, "a limit that is no limit changed the file"


def check_resumed():
    """search and apply begin with a checkpoint and keep a limit of their own."""
    checkpoint = os.path.join(folder, "d.npz")
    code, text, *_ = convert("tuned", None, "--effort", "none", "--checkpoint", checkpoint)
    assert code == 0, text
    code, text, _ = run("search", checkpoint, "--size", "15%", "--overwrite", "--max-memory", "2M", "--threads", "1")
    least = least_of(text)
    code, text, peak = run("search", checkpoint, "--size", "15%", "--overwrite", "--max-memory", f"{least}M",
                           "-o", os.path.join(folder, "s.onnx"), "--threads", "1")
    print(f"search: limit {least} MB, peak {peak / 1e6:.1f} MB")
    assert code == 0 and peak <= least * 1e6, (peak, text)


def check_eval():
    arguments = ("eval", digits[0], *digits[1:])
    code, text, _ = run(*arguments, "--max-memory", "1M")
    assert code == 4 and least_of(text) <= 24, text
    code, text, peak = run(*arguments, "--max-memory", "24M")
    print(f"eval: limit 24 MB, peak {peak / 1e6:.1f} MB")
    assert code == 0 and peak <= 24e6, (peak, text)


def check_usage():
    code, text, _ = run("convert", digits[0], "--max-memory", "1G", "-o", os.path.join(folder, "u.onnx"))
    assert code == 2 and "needs samples" in text, text
    for more in (["--max-memory", "20%"], ["--max-memory", "0"], ["--weights-only", "--max-memory", "1G"],
                 ["--recipe", "paper", "--max-memory", "1G"]):
        arguments = digits[:1] if "--weights-only" in more else digits
        code, text, _ = run("convert", *arguments, *more, "-o", os.path.join(folder, "u.onnx"))
        assert code == 2, (more, text)


shutil.rmtree(folder, ignore_errors=True)
os.makedirs(folder)
check_usage()
check_eval()
check_kept(check_refused())
check_resumed()
print("ok")

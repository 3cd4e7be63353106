//! A kernel that refuses one system call: a seccomp filter, set by a few lines of Python that then run the guard.

use crate::support::{need, python};

/// Starts what follows with one system call answered by `errno` (0: a success that did nothing), for this first
/// argument only where one is given.
pub fn filter(call: &str, argument: Option<i32>, errno: i32) -> Option<Vec<String>> {
    // Two architectures, by their own tables (syscall(2)); pidfd_open came when numbers were shared already.
    let number = match (call, std::env::consts::ARCH) {
        ("flock", "x86_64") => 73,
        ("flock", "aarch64") => 32,
        ("prctl", "x86_64") => 157,
        ("prctl", "aarch64") => 167,
        ("pidfd_open", _) => 434,
        _ => -1,
    };
    let words = [python(), "-c", FILTER, &number.to_string(), &argument.unwrap_or(-1).to_string(), &errno.to_string()];
    let words: Vec<String> = words.map(str::to_owned).into();
    let tried = std::process::Command::new(&words[0]).args(&words[1..]).arg("true").output();
    let works = number > 0 && tried.is_ok_and(|out| out.status.success());
    need("seccomp filters, and Python to set one", works).then_some(words)
}

/// BPF: load the number; another one is allowed; load the first argument's low half (little-endian); answer.
const FILTER: &str = r#"
import ctypes, os, struct, sys
number, argument, errno = map(int, sys.argv[1:4])
code = [(0x20, 0, 0, 0), (0x15, 0, 3 if argument >= 0 else 1, number)]
if argument >= 0:
    code += [(0x20, 0, 0, 16), (0x15, 0, 1, argument)]
code += [(0x06, 0, 0, 0x00050000 | errno), (0x06, 0, 0, 0x7FFF0000)]
text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in code))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
program = Program(len(code), ctypes.addressof(text))
libc = ctypes.CDLL(None, use_errno=True)
long = ctypes.c_ulong
assert libc.prctl(38, long(1), long(0), long(0), long(0)) == 0, "no_new_privs"
assert libc.prctl(22, long(2), ctypes.byref(program), long(0), long(0)) == 0, "seccomp"
os.execvp(sys.argv[4], sys.argv[4:])
"#;

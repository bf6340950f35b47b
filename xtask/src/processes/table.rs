//! What the system's process table says: from `/proc` (Linux), else from `ps` (macOS).
//!
//! A dead process that nobody has collected yet (a zombie) counts as ended here, unlike for
//! `kill(0)`: where process 1 is slow to collect, waiting for it to vanish would take long.

use std::{fs, path::Path, process::Command};

use rustix::process::{Pid, test_kill_process_group};

/// Whether a process of this id runs (also one of another user).
pub fn is_alive(id: u32) -> bool {
    if has_proc() {
        return stat(id).is_some_and(|(state, _)| state != 'Z');
    }
    let state = ps(&["-o", "stat=", "-p", &id.to_string()]);
    !state.is_empty() && !state.starts_with('Z')
}

/// The command line of a process; empty when there is none.
pub fn command_line(id: u32) -> String {
    if has_proc() {
        let bytes = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        return String::from_utf8_lossy(&bytes).replace('\0', " ");
    }
    ps(&["-ww", "-o", "command=", "-p", &id.to_string()])
}

/// Whether any process of this group runs.
pub(super) fn is_group_alive(group: Pid) -> bool {
    if test_kill_process_group(group).is_err() {
        return false;
    }
    let number = group.as_raw_nonzero().get();
    if has_proc() {
        return fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?))
            .any(|(state, its)| its == number && state != 'Z');
    }
    ps(&["-A", "-o", "pgid=", "-o", "stat="])
        .lines()
        .any(|line| {
            let mut fields = line.split_whitespace();
            fields.next() == Some(&number.to_string())
                && fields.next().is_some_and(|state| !state.starts_with('Z'))
        })
}

fn has_proc() -> bool {
    Path::new("/proc/self/stat").exists()
}

/// State and process group from `/proc/ID/stat`, whose second field may hold spaces and
/// parentheses.
fn stat(id: u32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(1)?.parse().ok()?))
}

fn ps(arguments: &[&str]) -> String {
    let mut command = Command::new("ps");
    command.args(arguments);
    super::answer(command).unwrap_or_default()
}

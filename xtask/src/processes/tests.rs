//! With real processes: what we start ends with us, however we end.

use std::{env, fs, process::exit};

use super::*;

/// `sh -c` with a script.
fn sh(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command
}

/// Waits up to 30 seconds for something to become true.
fn within(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what}");
        thread::sleep(TICK);
    }
}

/// Lines of a process as they come.
fn collected() -> (Arc<Mutex<Vec<String>>>, Sink) {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let copy = Arc::clone(&lines);
    let sink: Sink = Box::new(move |line| copy.lock().unwrap().push(line.to_owned()));
    (lines, sink)
}

#[test]
fn a_drop_ends_the_child_and_its_children() {
    let (lines, sink) = collected();
    let process = Process::start("t", sh("sleep 600 & echo $!; wait"), sink).unwrap();
    within("no line", || !lines.lock().unwrap().is_empty());
    let grandchild: u32 = lines.lock().unwrap()[0].parse().unwrap();
    let child = process.id();
    assert!(is_alive(child) && is_alive(grandchild));
    drop(process);
    assert!(!is_alive(child) && !is_alive(grandchild));
}

#[test]
fn what_a_dead_child_left_is_ended_too() {
    let (lines, sink) = collected();
    let mut process = Process::start("t", sh("sleep 600 & echo $!; exit 3"), sink).unwrap();
    within("still running", || process.ended().is_some());
    assert_eq!(process.ended().unwrap().code(), Some(3));
    let grandchild: u32 = lines.lock().unwrap()[0].parse().unwrap();
    assert!(!is_alive(grandchild));
}

#[test]
fn a_child_that_ignores_the_signal_is_killed() {
    let (lines, sink) = collected();
    let mut process = Process::start(
        "t",
        sh("trap '' TERM INT; echo ready; while :; do sleep 1; done"),
        sink,
    )
    .unwrap();
    within("no line", || !lines.lock().unwrap().is_empty());
    let asked = Instant::now();
    process.stop();
    assert!(asked.elapsed() >= GRACE);
    assert!(!is_alive(process.id()));
}

#[test]
fn a_failed_command_says_its_last_words_and_a_slow_one_is_stopped() {
    let error = run_silently("t", sh("echo one; echo two >&2; exit 7")).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("exit status: 7"), "{error}");
    assert!(error.contains("one") && error.contains("two"), "{error}");

    let mut slow = Process::start("t", sh("sleep 600"), silent()).unwrap();
    let error = slow.wait(Some(Duration::from_millis(100))).unwrap_err();
    assert!(error.to_string().contains("took longer than 0.1 s"));
    assert!(!is_alive(slow.id()));
}

#[test]
fn output_that_is_no_text_or_redraws_its_line_is_read() {
    let (lines, sink) = collected();
    run_into("t", sh(r"printf '\377x\n 1%%\r 2%%\r\nend'"), sink, false).unwrap();
    let lines = lines.lock().unwrap();
    assert_eq!(*lines, ["\u{fffd}x", " 2%", "end"]);
}

/// Not a test by itself: the victim of the tests below, started by them as a process of its own.
#[test]
fn victim() {
    let Ok(mode) = env::var("TTLC_TEST_VICTIM") else {
        return;
    };
    let (lines, sink) = collected();
    let child = Process::start("t", sh("sleep 600 & echo $!; wait"), sink).unwrap();
    let stubborn =
        Process::start("t", sh("trap '' TERM; while :; do sleep 1; done"), silent()).unwrap();
    let folder = TemporaryFolder::new("victim test").unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    within("no line", || !lines.lock().unwrap().is_empty());
    let report = format!(
        "{} {} {}\n{}",
        child.id(),
        lines.lock().unwrap()[0],
        stubborn.id(),
        folder.path().display()
    );
    let file = PathBuf::from(env::var_os("TTLC_TEST_REPORT").unwrap());
    fs::write(file.with_extension("new"), report).unwrap();
    fs::rename(file.with_extension("new"), &file).unwrap();
    match mode.as_str() {
        "exit" => exit(1),
        "panic" => panic!("on purpose"),
        "signal" => {
            stop_on_signals().unwrap();
            fs::write(file.with_extension("armed"), "").unwrap();
            within("no signal", stopping);
        }
        _ => thread::sleep(Duration::from_mins(10)),
    }
}

/// Starts the victim, ends it in the given way, and expects nothing to be left.
fn ends_with(mode: &str, end: impl FnOnce(&Child, &Path)) {
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("report");
    let mut victim = Command::new(env::current_exe().unwrap())
        .args(["--exact", "processes::tests::victim", "--nocapture"])
        .env("TTLC_TEST_VICTIM", mode)
        .env("TTLC_TEST_REPORT", &report)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    within("no report", || report.exists());
    end(&victim, &report);
    victim.wait().unwrap();
    let text = fs::read_to_string(&report).unwrap();
    let (ids, folder) = text.split_once('\n').unwrap();
    for id in ids.split(' ') {
        let id: u32 = id.parse().unwrap();
        within(&format!("process {id} is left"), || !is_alive(id));
    }
    within("the folder is left", || !Path::new(folder).exists());
}

#[test]
fn nothing_is_left_after_kill_9() {
    ends_with("wait", |victim, _| {
        let pid = Pid::from_raw(i32::try_from(victim.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    });
}

#[test]
fn nothing_is_left_after_an_exit_without_drops() {
    ends_with("exit", |_, _| ());
}

#[test]
fn nothing_is_left_after_a_panic() {
    ends_with("panic", |_, _| ());
}

#[test]
fn nothing_is_left_after_sigterm() {
    ends_with("signal", |victim, report| {
        within("not armed", || report.with_extension("armed").exists());
        let pid = Pid::from_raw(i32::try_from(victim.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
    });
}

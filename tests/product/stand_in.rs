//! The stand-in as a program: what `cargo xtask dev` relies on.

use std::{
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::Value;
use xtask::processes::Process;

use crate::{product::fixtures, stores::until};

type Lines = Arc<Mutex<Vec<String>>>;

fn start(arguments: &[&str]) -> (Process, Lines) {
    let captures = fixtures().join("captures");
    let captures = captures.to_str().expect("a path in UTF-8");
    start_bare(&[&["--captures", captures], arguments].concat())
}

fn start_bare(arguments: &[&str]) -> (Process, Lines) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_upstream"));
    command.env_clear().args(arguments);
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = lines.clone();
    let sink = Box::new(move |line: &str| sink.lock().unwrap().push(line.to_owned()));
    (Process::start("upstream", command, sink).unwrap(), lines)
}

async fn address(lines: &Lines) -> String {
    until(Duration::from_secs(20), async || {
        let lines = lines.lock().unwrap();
        let line = lines
            .iter()
            .find_map(|line| line.strip_prefix("listening on "));
        line.map(str::to_owned)
            .with_context(|| format!("{lines:?}"))
    })
    .await
}

async fn state(base: &str) -> Value {
    let state = reqwest::get(format!("{base}/stand-in/state")).await;
    state.unwrap().json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_where_it_listens_plays_every_capture_and_ends_when_asked() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (mut process, lines) = start(&["--fault", r#"room-a={"captcha":{"times":1}}"#]);
    let base = address(&lines).await;
    let state = state(&base).await;
    let names: Vec<_> = state["creators"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["mixed", "room-a", "room-b", "room-c", "room-d"]);
    assert!(state["creators"][0]["roomId"].is_string(), "{state:#}");

    let address = base.strip_prefix("http://").unwrap();
    let (mut second, words) = start(&["--listen", address]);
    let status = until(Duration::from_secs(20), async || {
        second.ended().context("still runs")
    })
    .await;
    assert!(!status.success());
    let words = words.lock().unwrap().join("\n");
    assert!(words.contains(address) && words.contains("port"), "{words}");

    process.stop();
    assert!(process.ended().expect("it ends").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_makes_rooms_up_and_ends_and_starts_them_on_demand() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (mut process, lines) = start_bare(&["--rooms", "1000", "--rate", "0", "--seed", "7"]);
    let base = address(&lines).await;
    let rooms = state(&base).await["creators"].as_array().unwrap().clone();
    assert_eq!(rooms.len(), 1000);
    assert!(rooms.iter().all(|room| room["roomId"].is_string()));
    let room_id = async |name: &str| {
        let state = state(&base).await;
        let rooms = state["creators"].as_array().unwrap();
        let room = rooms.iter().find(|room| room["name"] == name).unwrap();
        room["roomId"].as_str().map(str::to_owned)
    };
    let order = async |order: &str| {
        let url = format!("{base}/stand-in/broadcasts/load-5/{order}");
        let answer = reqwest::Client::new().post(url).send().await.unwrap();
        assert_eq!(answer.status(), 204, "{order}");
    };
    let first = room_id("load-5").await.unwrap();
    order("end").await;
    until(Duration::from_secs(10), async || {
        ensure!(room_id("load-5").await.is_none(), "still live");
        Ok(())
    })
    .await;
    order("start").await;
    let second = until(Duration::from_secs(10), async || {
        room_id("load-5").await.context("not live")
    })
    .await;
    assert_ne!(first, second);
    process.stop();
    assert!(process.ended().expect("it ends").success());
}

#[test]
fn wrong_arguments_are_refused_by_name() {
    for (arguments, named) in [
        (&["--speed", "-1"][..], "--speed"),
        (&["--fault", "room-a=dance"], "--fault"),
        (&["--fault", r#"nobody={"captcha":{"times":1}}"#], "nobody"),
        (&["--captures", "nowhere"], "nowhere"),
        (&["--speed=1"], "--captures"),
        (&["--rooms=0"], "--captures"),
        (&["--rate", "-1"], "--rate"),
        (&["--rooms", "many"], "--rooms"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_upstream"));
        command.env_clear();
        if !["--captures", "--speed=1", "--rooms=0"].contains(&arguments[0]) {
            command.arg("--captures").arg(fixtures().join("captures"));
        }
        let output = command.args(arguments).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && words.contains(named),
            "{arguments:?}: {words}"
        );
    }
}

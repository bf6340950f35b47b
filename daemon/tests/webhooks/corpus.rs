//! `urls.txt`: addresses with their verdict, each sent as a webhook would be, where every name of the
//! world is allowed, on port 443 and on that of the honeypots.
//!
//! Columns, by tabs: the verdict (a status, or the reason of the failure), the address, and what DNS says
//! of its host. `\s`, `\t`, `\n`, `\r`, `\0`, `\b` (a backslash) and `\u{…}` stand for what they usually
//! do, `PORT` is that of the honeypots.

use std::collections::HashMap;

use hickory_resolver::proto::rr::RecordType;

use super::rig::{PUBLIC, Says, World, answer, post};

struct Case {
    verdict: String,
    url: String,
    answers: Option<Vec<String>>,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for line in include_str!("urls.txt").lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let columns: Vec<_> = line.split('\t').collect();
        let answers = columns
            .get(2)
            .map(|list| list.split(' ').map(str::to_owned).collect());
        cases.push(Case {
            verdict: columns[0].to_owned(),
            url: columns[1].to_owned(),
            answers,
        });
    }
    cases
}

fn plain(text: &str, port: u16) -> String {
    let mut out = String::new();
    let mut rest = text.replace("PORT", &port.to_string());
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let (character, length) = match &rest[at + 1..=at + 1] {
            "s" => (' ', 2),
            "t" => ('\t', 2),
            "n" => ('\n', 2),
            "r" => ('\r', 2),
            "0" => ('\0', 2),
            "b" => ('\\', 2),
            "u" => {
                let end = rest[at..].find('}').unwrap();
                let code = u32::from_str_radix(&rest[at + 3..at + end], 16).unwrap();
                (char::from_u32(code).unwrap(), end + 1)
            }
            other => panic!("\\{other} in {text}"),
        };
        out.push(character);
        rest = rest[at + length..].to_owned();
    }
    out + &rest
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_of_the_corpus_has_its_verdict() {
    let cases = cases();
    assert!(cases.len() >= 160, "{}", cases.len());
    let mut names: HashMap<String, Vec<String>> = HashMap::new();
    for case in &cases {
        if let Some(answers) = &case.answers {
            let url = url::Url::parse(&plain(&case.url, 1)).unwrap();
            names.insert(url.host_str().unwrap().to_owned(), answers.clone());
        }
    }
    // A name that the corpus says nothing of is public: what gets past the guard, arrives.
    let world = World::new(
        move |name, kind, times| {
            let Some(answers) = names.get(name) else {
                return Says::Addresses(if kind == RecordType::A {
                    vec![PUBLIC]
                } else {
                    vec![]
                });
            };
            // `a|b`: one at the first look, the other at the next ones.
            let answers = answers.iter().map(|answer| match answer.split_once('|') {
                Some((first, _)) if times == 0 => first,
                Some((_, then)) => then,
                None => answer,
            });
            let answers: Vec<_> = answers.collect();
            match answers.as_slice() {
                ["NOTHING"] => Says::Nothing,
                [alias] if alias.starts_with('>') => Says::Alias(alias[1..].to_owned()),
                all => Says::Addresses(all.iter().map(|text| text.parse().unwrap()).collect()),
            }
        },
        |_| answer(200, ""),
    )
    .await;
    let allow = format!("*,*:{0},93.184.215.14,93.184.215.14:{0}", world.port);
    let webhooks = world.webhooks(&allow);
    let mut wrong = Vec::new();
    let mut sent = 0;
    for case in &cases {
        let url = plain(&case.url, world.port);
        let end = post(&webhooks, &url).await;
        let seen = match &end {
            Ok(answer) => answer.status.to_string(),
            Err(failure) => failure.reason().to_owned(),
        };
        sent += usize::from(end.is_ok());
        if seen != case.verdict {
            wrong.push(format!("{url:?}: {seen}, not {}: {end:?}", case.verdict));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        world.connected().len(),
        sent,
        "a connection only where it was allowed"
    );
    assert!(sent >= 15, "{sent}");
    world.assert_nobody_was_caught();
}

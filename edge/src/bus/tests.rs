use super::*;

fn reply(bytes: &str) -> Result<Reply, Error> {
    let mut received = BytesMut::from(bytes);
    let reply = decode(&mut received).unwrap().expect("complete");
    assert!(received.is_empty(), "nothing is left over");
    reply
}

#[test]
fn a_command_is_an_array_of_bulk_strings() {
    assert_eq!(
        encode(&["XACK", "ttlc:events", "api", "é\r\n"]),
        b"*4\r\n$4\r\nXACK\r\n$11\r\nttlc:events\r\n$3\r\napi\r\n$4\r\n\xc3\xa9\r\n\r\n"
    );
}

#[test]
fn replies_are_read_in_pieces() {
    let whole = "*2\r\n:7\r\n$5\r\nhe\r\nl\r\n+OK\r\n";
    let first = whole.len() - "+OK\r\n".len();
    for cut in 0..first {
        let mut received = BytesMut::from(&whole[..cut]);
        assert_eq!(decode(&mut received).unwrap(), None, "cut at {cut}");
        received.extend_from_slice(&whole.as_bytes()[cut..]);
        assert_eq!(
            decode(&mut received).unwrap(),
            Some(Ok(Reply::List(vec![
                Reply::Number(7),
                Reply::Text("he\r\nl".into())
            ])))
        );
        assert_eq!(&received[..], b"+OK\r\n", "the next reply stays");
    }
}

#[test]
fn an_error_shows_its_code_only() {
    let error = reply("-NOGROUP No such key 'ttlc:events' or consumer group 'api'\r\n");
    assert_eq!(error, Err(Error::Refused("NOGROUP".into())));
    assert!(error.unwrap_err().is("NOGROUP"));
    let error = reply("-WRONGPASS invalid username-password pair: hunter2\r\n").unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    // Also inside a list.
    assert_eq!(
        reply("*2\r\n:1\r\n-ERR x\r\n"),
        Err(Error::Refused("ERR".into()))
    );
}

#[test]
fn what_is_no_reply_is_refused() {
    assert_eq!(
        decode(&mut BytesMut::from("HTTP/1.1 400 Bad Request\r\n\r\n")),
        Err(Error::Protocol)
    );
    let mut endless = BytesMut::from("$99999999\r\n");
    endless.resize(MAX_REPLY + 1, b'x');
    assert_eq!(decode(&mut endless), Err(Error::TooLarge));
}

#[test]
fn entries_of_a_group_read() {
    let read = reply(
        "*1\r\n*2\r\n$11\r\nttlc:events\r\n*2\r\n\
         *2\r\n$3\r\n1-1\r\n*4\r\n$5\r\nevent\r\n$2\r\n{}\r\n$3\r\nraw\r\n$1\r\nx\r\n\
         *2\r\n$3\r\n1-2\r\n*-1\r\n",
    )
    .unwrap();
    let entries = entries(read).unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0].id, "1-1");
    assert_eq!(entries[0].field("event"), Some("{}"));
    assert_eq!(entries[0].field("raw"), Some("x"));
    assert_eq!(entries[0].field("other"), None);
    // Trimmed while it was pending.
    assert_eq!(entries[1].field("event"), None);

    assert_eq!(super::entries(reply("*-1\r\n").unwrap()).unwrap(), []);
    assert_eq!(super::entries(reply("$-1\r\n").unwrap()).unwrap(), []);
    assert_eq!(
        super::entries(reply("*1\r\n*1\r\n$1\r\nx\r\n").unwrap()),
        Err(Error::Protocol)
    );
    assert_eq!(super::entries(Reply::Number(1)), Err(Error::Protocol));
}

#[test]
fn entries_that_were_delivered_often_are_found() {
    let pending = reply(
        "*2\r\n*4\r\n$3\r\n1-1\r\n$6\r\nedge-0\r\n:900\r\n:4\r\n\
         *4\r\n$3\r\n1-2\r\n$6\r\nedge-0\r\n:900\r\n:5\r\n",
    )
    .unwrap();
    assert_eq!(delivered_often(pending, 5).unwrap(), ["1-2"]);
}

#[test]
fn addresses() {
    let address = Address::parse("redis://localhost").unwrap();
    assert_eq!((address.host.as_str(), address.port), ("localhost", 6379));
    assert!(!address.tls && address.username.is_none() && address.password.is_none());
    assert_eq!(address.database, 0);

    let address = Address::parse("rediss://u%40x:p%2Fw@db.example:6380/3").unwrap();
    assert!(address.tls);
    assert_eq!(address.username.as_deref(), Some("u@x"));
    assert_eq!(address.password.as_deref(), Some("p/w"));
    assert_eq!((address.port, address.database), (6380, 3));

    let address = Address::parse("redis://:secret@[::1]:7000/").unwrap();
    assert_eq!(address.username, None);
    assert_eq!(address.password.as_deref(), Some("secret"));
    assert_eq!(address.host, "[::1]");

    for bad in [
        "",
        "localhost:6379",
        "http://localhost",
        "redis://",
        "redis://h/x",
        "redis://h:99999",
        "redis://:%ff@h",
    ] {
        let error = Address::parse(bad).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Address(_)), "{bad}");
    }
}

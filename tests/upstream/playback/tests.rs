use super::*;

fn line(at: i64, msg_id: u8, create_time: i64) -> Line {
    // {1: {1: "M", 2: msg_id, 4: create_time}}
    let mut header = b"\x0a\x01M\x10".to_vec();
    header.push(msg_id);
    if create_time != 0 {
        header.push(0x20);
        let mut value = create_time.cast_unsigned();
        while value >= 0x80 {
            header.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        header.push((value & 0x7f) as u8);
    }
    let mut payload = vec![0x0a, u8::try_from(header.len()).unwrap()];
    payload.extend_from_slice(&header);
    Line {
        at,
        method: "M".to_owned(),
        payload: payload.into(),
    }
}

#[test]
fn messages_keep_the_age_they_had() {
    assert_eq!(
        shift(1_700_000_000_000, 1_700_000_012_000, 2_000_000_000_000),
        1_999_999_988_000
    );
    assert_eq!(
        shift(1_700_000_000, 1_700_000_012_000, 2_000_000_000_000),
        1_999_999_988
    );
    assert_eq!(shift(0, 1_700_000_012_000, 2_000_000_000_000), 0);
    // A clock that was ahead of the collector's stays ahead.
    assert_eq!(
        shift(1_700_000_014_000, 1_700_000_012_000, 2_000_000_000_000),
        2_000_000_002_000
    );
}

#[test]
fn a_repeat_is_the_same_message_within_a_lap_and_another_one_in_the_next() {
    let at = 1_700_000_000_000;
    let (first, again) = (line(at, 7, at - 500), line(at + 20_000, 7, at - 500));
    let other = line(at, 8, at);
    let mut lap = Ids::default();
    let a = lap.renew(&first, 99, 2_000_000_000_000);
    let b = lap.renew(&again, 99, 2_000_000_001_000);
    let c = lap.renew(&other, 99, 2_000_000_000_000);
    assert_eq!((a.msg_id, &a.payload), (b.msg_id, &b.payload));
    assert_ne!(a.msg_id, c.msg_id);
    assert_eq!(
        patch::header(&a.payload).unwrap().create_time,
        1_999_999_999_500
    );
    let next = Ids::default().renew(&first, 99, 2_000_000_000_000);
    assert_ne!(a.msg_id, next.msg_id);
}

#[test]
fn a_message_without_an_id_gets_a_new_wrapper_id_each_time() {
    let bare = Line {
        at: 0,
        method: "X".to_owned(),
        payload: Bytes::from_static(b"\x08\x2a"),
    };
    let mut lap = Ids::default();
    let (a, b) = (lap.renew(&bare, 99, 1), lap.renew(&bare, 99, 1));
    assert_ne!(a.msg_id, b.msg_id);
    assert_eq!(a.payload, bare.payload);
}

#[test]
fn gaps_are_cut_before_they_are_sped_up() {
    let pace = Pace::Recorded {
        max_gap: Duration::from_secs(2),
        speed: 4.0,
    };
    assert_eq!(gap(pace, 1_000), Duration::from_millis(250));
    assert_eq!(gap(pace, 86_400_000), Duration::from_millis(500));
    assert_eq!(gap(pace, -5), Duration::ZERO);
    assert_eq!(gap(Pace::AsFastAsPossible, 1_000), Duration::ZERO);
}

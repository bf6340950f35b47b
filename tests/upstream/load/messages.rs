//! Bytes of the messages that are made up.
//!
//! In: an event, its ids and time, the wanted average size. Out: method name and protobuf. Written
//! field by field from the protocol's description. What real messages are large by, badges with
//! their pictures, fills these up to the size that their kind has in the captures.

use std::sync::LazyLock;

use super::{Event, GiftEvent};
use crate::patch::write_varint;

/// A viewer, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Person(pub(crate) u32);

/// Something to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gift {
    pub(crate) id: u32,
    pub(crate) name: &'static str,
    pub(crate) coins: u32,
    pub(crate) streaks: bool,
    /// How often it is given.
    pub(super) weight: u32,
}

const fn gift(id: u32, name: &'static str, coins: u32, streaks: bool, weight: u32) -> Gift {
    Gift {
        id,
        name,
        coins,
        streaks,
        weight,
    }
}

/// What can be given, here and in the catalogue. The last one cannot streak.
pub(crate) const GIFTS: [Gift; 6] = [
    gift(5655, "Rose", 1, true, 50),
    gift(5269, "TikTok", 1, true, 20),
    gift(5879, "Doughnut", 30, true, 10),
    gift(5658, "Perfume", 20, true, 8),
    gift(11_046, "Galaxy", 1_000, false, 2),
    gift(7934, "Heart Me", 1, false, 10),
];

/// Ids and time of one message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) msg_id: i64,
    pub(crate) room_id: i64,
    /// Unix ms.
    pub(crate) now: i64,
    /// Unix ms when the broadcast began: streak names count from here.
    pub(crate) began: i64,
    /// The host's user id.
    pub(crate) owner: i64,
}

/// Sizes of whole messages of each kind, near those in the captures; with the usual mix they average [`AVERAGE`].
const AVERAGE: usize = 2_540;
const CHAT: usize = 2_700;
const LIKE: usize = 2_000;
const JOIN: usize = 2_300;
const FOLLOW: usize = 3_700;
const VIEWERS: usize = 3_000;
const GIFT: usize = 5_300;

/// Badges, ready to be put into a user: field 64.
static BADGES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| (0..64).map(badge).collect());

pub(super) fn encode(event: &Event, stamp: &Stamp, size: usize) -> (&'static str, Vec<u8>) {
    // What is left for the user when the rest is written.
    let fill = |usual: usize, rest: usize| (usual * size / AVERAGE).saturating_sub(rest);
    let method = match event {
        Event::Chat { .. } => "WebcastChatMessage",
        Event::Like { .. } => "WebcastLikeMessage",
        Event::Join { .. } => "WebcastMemberMessage",
        Event::Follow { .. } => "WebcastSocialMessage",
        Event::Viewers { .. } => "WebcastRoomUserSeqMessage",
        Event::Gift(_) => "WebcastGiftMessage",
    };
    let mut out = Out::default();
    out.bytes(1, &common(method, stamp, display_key(event)));
    match event {
        Event::Chat { who, text } => {
            out.bytes(2, &user(*who, fill(CHAT, 190)));
            out.bytes(3, text.as_bytes());
            out.bytes(14, b"en");
        }
        Event::Like { who, count, total } => {
            out.number(2, u64::from(*count));
            out.number(3, *total);
            out.bytes(5, &user(*who, fill(LIKE, 170)));
        }
        Event::Join { who, present } => {
            out.bytes(2, &user(*who, fill(JOIN, 170)));
            out.number(3, *present);
            out.number(10, 1);
            out.bytes(19, b"homepage_hot-live_cell");
            out.bytes(20, b"draw");
        }
        Event::Follow { who, followers } => {
            out.bytes(2, &user(*who, fill(FOLLOW, 210)));
            out.number(4, 1);
            out.bytes(5, stamp.owner.to_string().as_bytes());
            out.number(6, *followers);
        }
        Event::Viewers {
            present,
            total,
            ranks,
        } => {
            for (place, who) in (1..).zip(ranks) {
                let mut rank = Out::default();
                rank.number(1, 1_000 / place);
                rank.bytes(2, &user(*who, fill(VIEWERS, 200) / ranks.len()));
                rank.number(3, place);
                out.bytes(2, &rank.0);
            }
            out.number(3, *present);
            out.number(7, *total);
        }
        Event::Gift(gift) => give(&mut out, gift, stamp, fill(GIFT, 560)),
    }
    (method, out.0)
}

/// A gift of any price that can streak.
pub(crate) fn priced(coins: u32) -> Gift {
    gift(9_000_000 + coins, "Stand-in", coins, true, 0)
}

/// A control message with this action.
pub(crate) fn control(stamp: &Stamp, action: u32) -> Vec<u8> {
    let mut out = Out::default();
    out.bytes(1, &common("WebcastControlMessage", stamp, ""));
    out.number(2, u64::from(action));
    out.0
}

fn give(out: &mut Out, event: &GiftEvent, stamp: &Stamp, size: usize) {
    let GiftEvent {
        who,
        gift,
        repeat,
        group,
        end,
    } = event;
    out.number(2, u64::from(gift.id));
    out.number(5, u64::from(*repeat));
    out.number(6, u64::from(*repeat));
    out.bytes(7, &user(*who, size));
    out.number(9, u64::from(*end));
    if *group != 0 {
        // The sender's clock in ms: here one that ticks with every streak.
        out.number(11, stamp.began.unsigned_abs() + group);
    }
    let mut details = Out::default();
    details.bytes(1, &image(&format!("gift-{}", gift.id)));
    details.bytes(2, format!("sent {}", gift.name).as_bytes());
    details.number(5, u64::from(gift.id));
    details.number(10, u64::from(gift.streaks));
    details.number(11, if gift.streaks { 1 } else { 2 });
    details.number(12, u64::from(gift.coins));
    details.bytes(16, gift.name.as_bytes());
    out.bytes(15, &details.0);
    let mut monitor = Out::default();
    monitor.number(1, stamp.owner.unsigned_abs());
    monitor.number(8, stamp.owner.unsigned_abs());
    out.bytes(23, &monitor.0);
}

fn display_key(event: &Event) -> &'static str {
    match event {
        Event::Like { .. } => "pm_mt_msg_viewer",
        Event::Follow { .. } => "pm_main_follow_message_viewer_2",
        Event::Gift(_) => "pm_mt_gift_send_combo",
        Event::Chat { .. } | Event::Join { .. } | Event::Viewers { .. } => "",
    }
}

fn common(method: &str, stamp: &Stamp, key: &str) -> Vec<u8> {
    let mut out = Out::default();
    out.bytes(1, method.as_bytes());
    out.number(2, stamp.msg_id.unsigned_abs());
    out.number(3, stamp.room_id.unsigned_abs());
    out.number(4, stamp.now.unsigned_abs());
    out.number(6, 1);
    if !key.is_empty() {
        let mut text = Out::default();
        text.bytes(1, key.as_bytes());
        out.bytes(8, &text.0);
    }
    out.0
}

/// A viewer with as many badges as it takes to get to `size` bytes.
fn user(who: Person, size: usize) -> Vec<u8> {
    let number = who.0;
    let mut out = Out::default();
    out.number(1, 6_900_000_000_100_000_000 + u64::from(number));
    out.bytes(3, format!("Viewer {number}").as_bytes());
    out.bytes(9, &image(&format!("avatar-{number}")));
    let mut follow = Out::default();
    follow.number(1, 30);
    follow.number(2, 120);
    follow.number(3, u64::from(number % 3));
    out.bytes(22, &follow.0);
    out.bytes(38, format!("viewer_{number}").as_bytes());
    out.bytes(46, format!("MS4wLjABAAAA{number:08}").as_bytes());
    for badge in BADGES.iter().cycle().skip(number as usize % BADGES.len()) {
        if out.0.len() + badge.len() > size {
            break;
        }
        out.0.extend_from_slice(badge);
    }
    // The rest, which is smaller than a badge, is what they say about themselves.
    let rest = size.saturating_sub(out.0.len() + 3);
    if rest > 0 {
        out.bytes(5, &"about me ".repeat(rest / 9 + 1).as_bytes()[..rest]);
    }
    out.0
}

/// Gifter level or fan club level, which say nothing about roles.
fn badge(index: u32) -> Vec<u8> {
    let level = (1 + index / 2).to_string();
    let mut log = Out::default();
    log.bytes(2, b"7138381176787539748");
    log.bytes(5, level.as_bytes());
    let mut combine = Out::default();
    combine.bytes(2, &image(&format!("badge-{index:02}")));
    combine.bytes(4, level.as_bytes());
    let mut badge = Out::default();
    badge.number(1, 4);
    badge.number(3, if index.is_multiple_of(2) { 8 } else { 10 });
    badge.number(11, 1);
    badge.bytes(12, &log.0);
    badge.bytes(23, &combine.0);
    let mut out = Out::default();
    out.bytes(64, &badge.0);
    out.0
}

fn image(name: &str) -> Vec<u8> {
    let mut out = Out::default();
    for host in ["p16", "p19"] {
        let url = format!(
            "https://{host}-sign.tiktokcdn.example/img/{name}.webp?x-expires=1795000000&x-signature=q"
        );
        out.bytes(1, url.as_bytes());
    }
    out.bytes(2, format!("img/{name}").as_bytes());
    out.0
}

/// Protobuf, field by field; zeros are left out.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn number(&mut self, field: u64, value: u64) {
        if value != 0 {
            write_varint(&mut self.0, field << 3);
            write_varint(&mut self.0, value);
        }
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        write_varint(&mut self.0, field << 3 | 2);
        write_varint(&mut self.0, bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }
}

//! Plays a creator's capture, or made-up events, as broadcasts.
//!
//! In: the recorded lines, or a plan. Out: messages to everybody who is connected, and to the ledger.
//!
//! - Each lap of a capture is a new broadcast: a fresh room id, fresh message ids and times that
//!   keep the age each message had when it was recorded. The same recorded message id stays one
//!   id within a lap, so that a repeat in the capture is a repeat on the wire.
//! - A recorded end of stream ends the broadcast: it is sent, the sockets are closed, the creator
//!   is offline for a pause, and what follows in the capture is the next broadcast. The end of
//!   the capture does the same without a message, for none was recorded.
//! - A broadcast waits for its first client, pauses when the last one leaves and goes on where it
//!   stands: a client that stays connected misses nothing, and one that drops and comes back
//!   misses nothing but what was on its way to it (of which it gets the last few again).
//! - Rooms of made-up events are played the same way, at the times of their plan.
//! - Between two frames, and while it waits, it does what faults and orders want of it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    Stage,
    capture::{Capture, FRAME_MESSAGES, Line},
    fault::Act,
    fresh,
    ledger::{Provider, Sent},
    load::{self, Event, GiftEvent, Load, Plan, Planned, Stamp, Totals},
    patch::{self, Header},
    room::{Order, Room, Tell},
    script::{Pace, Record, Show},
    wire::{self, RoomMessage},
};

/// Times below this are seconds, not milliseconds.
const SECONDS_BELOW: i64 = 100_000_000_000;
/// Planned events that are this close share a frame.
const SAME_FRAME: Duration = Duration::from_millis(100);
/// A plan that is so late (nobody was there) goes on from now instead of catching up.
const TOO_LATE: Duration = Duration::from_secs(1);

/// Raises the curtain of the first broadcast; the rest is for the returned task. Creators who
/// play nothing have a task that ends at once.
pub(crate) fn play(stage: Arc<Stage>, room: Arc<Room>) -> impl Future<Output = ()> + Send {
    let plays = match &room.show {
        Show::Plays(capture) | Show::AgeRestricted(capture) | Show::LoginWanted(capture) => {
            Some(Programme::Capture(capture.clone()))
        }
        Show::Generated(load) => Some(Programme::Load(load.clone())),
        Show::Offline | Show::NeverLive | Show::Captcha => None,
    };
    let player = plays.map(|programme| {
        let mut player = Player {
            stage,
            room,
            room_id: 0,
            began: 0,
            lap: 0,
            on_air: false,
            extra: Vec::new(),
            totals: Totals::default(),
        };
        player.begin();
        (player, programme)
    });
    async move {
        if let Some((mut player, programme)) = player {
            player.laps(programme).await;
        }
    }
}

enum Programme {
    Capture(Capture),
    Load(Load),
}

struct Player {
    stage: Arc<Stage>,
    room: Arc<Room>,
    room_id: i64,
    /// Unix ms.
    began: i64,
    lap: u32,
    on_air: bool,
    /// What faults put into the next frame.
    extra: Vec<(String, Bytes)>,
    totals: Totals,
}

impl Player {
    fn begin(&mut self) {
        let (name, lap) = (&self.room.name, self.lap);
        self.room_id = self.room.begin(format!("{name} live, lap {}", lap + 1));
        self.began = fresh::now_ms();
        self.on_air = true;
        tracing::info!(
            creator = name,
            room_id = self.room_id,
            lap,
            "broadcast begins"
        );
    }

    /// All laps, and one more whenever somebody orders it.
    async fn laps(&mut self, programme: Programme) {
        loop {
            match &programme {
                Programme::Capture(capture) => self.play_capture(capture).await,
                Programme::Load(load) => self.play_load(load).await,
            }
            self.lap += 1;
            if self.stage.script.laps.is_none_or(|laps| self.lap < laps) {
                continue;
            }
            self.room.finish();
            tracing::info!(creator = self.room.name, "the last lap is over");
            while !self.room.take_order(Order::Start) {
                self.room.called().await;
            }
            self.begin();
        }
    }

    /// Is live, after the pause between two broadcasts when it is not.
    async fn go_live(&mut self) {
        if !self.on_air {
            let until = Instant::now() + self.stage.script.offline_pause;
            while Instant::now() < until && !self.room.take_order(Order::Start) {
                tokio::select! {
                    () = sleep_until(until) => {}
                    () = self.room.called() => {}
                }
            }
            self.begin();
        }
    }

    async fn end(&mut self) {
        self.on_air = false;
        self.room.end().await;
        tracing::info!(
            creator = self.room.name,
            room_id = self.room_id,
            lap = self.lap,
            "broadcast ends"
        );
    }

    async fn play_capture(&mut self, capture: &Capture) {
        let mut ids = Ids::default();
        for broadcast in capture.broadcasts() {
            self.go_live().await;
            let mut before: Option<i64> = None;
            for frame in capture.frames(broadcast) {
                let at = capture.lines[frame.start].at;
                if let Some(before) = before {
                    let gap = gap(self.stage.script.pace, at - before);
                    self.wait_until(Instant::now() + gap).await;
                }
                before = Some(at);
                self.be_ready().await;
                let now = fresh::now_ms();
                let mut messages: Vec<_> = capture.lines[frame.clone()]
                    .iter()
                    .zip(frame)
                    .map(|(line, index)| (Some(index), ids.renew(line, self.room_id, now)))
                    .collect();
                for (method, payload) in self.extra.drain(..) {
                    let message = message(&method, payload, fresh::id());
                    messages.insert(messages.len() / 2, (None, message));
                }
                self.send(messages).await;
            }
            self.end().await;
        }
    }

    async fn play_load(&mut self, load: &Load) {
        self.go_live().await;
        if load.rate == 0.0 {
            // Idle: only what faults and orders want.
            loop {
                self.wait_until(Instant::now() + Duration::from_hours(1))
                    .await;
            }
        }
        let mut plan = Plan::new(load, &self.room.name, self.lap);
        let mut start = Instant::now();
        let mut next = plan.next();
        while let Some(first) = next {
            let first_at = first.at;
            if load.rate.is_finite() {
                self.wait_until(start + first_at).await;
                let late = start.elapsed().saturating_sub(first_at);
                if late > TOO_LATE {
                    start += late;
                }
            }
            self.be_ready().await;
            let mut frame = vec![first];
            next = plan.next();
            while let Some(planned) =
                next.take_if(|one| one.at <= first_at + SAME_FRAME && frame.len() < FRAME_MESSAGES)
            {
                frame.push(planned);
                next = plan.next();
            }
            self.send_planned(load, &frame).await;
        }
        self.control(3).await;
        self.end().await;
    }

    async fn send_planned(&mut self, load: &Load, frame: &[Planned]) {
        let mut messages = Vec::with_capacity(frame.len() + self.extra.len());
        for planned in frame {
            let stamp = self.stamp();
            let (method, payload) = planned.event.encode(&stamp, load.size);
            self.totals.add(&planned.event, payload.len());
            messages.push((None, message(method, payload.into(), stamp.msg_id)));
        }
        for (method, payload) in self.extra.drain(..) {
            messages.push((None, message(&method, payload, fresh::id())));
        }
        self.stage
            .ledger
            .record_totals(&self.room.name, self.totals);
        self.send(messages).await;
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            msg_id: fresh::id(),
            room_id: self.room_id,
            now: fresh::now_ms(),
            began: self.began,
            owner: self.room.owner_id,
        }
    }

    /// Writes down what everybody who is here gets, and sends it.
    async fn send(&mut self, messages: Vec<(Option<usize>, RoomMessage)>) {
        let ledger = &self.stage.ledger;
        ledger.count(|counts| counts.messages += messages.len() as u64);
        if self.stage.script.record != Record::Counts {
            let at = SystemTime::now();
            let via = self.room.providers();
            ledger.record_sent(messages.iter().map(|(line, message)| Sent {
                creator: self.room.name.clone(),
                room_id: self.room_id,
                method: message.method.clone(),
                msg_id: message.msg_id,
                payload: match self.stage.script.record {
                    Record::Everything => message.payload.clone(),
                    _ => Bytes::new(),
                },
                line: *line,
                lap: self.lap,
                at,
                via: via.clone(),
            }));
        }
        let messages = messages.into_iter().map(|(_, message)| message).collect();
        self.room.send(Arc::new(messages)).await;
    }

    // Waiting, and what is done meanwhile.

    async fn wait_until(&mut self, until: Instant) {
        loop {
            tokio::select! {
                biased;
                () = sleep_until(until) => return,
                () = self.room.called() => {}
            }
            self.follow_orders().await;
            if !self.room.providers().is_empty() {
                self.act().await;
            }
        }
    }

    /// Somebody is here, and what is due has been done.
    async fn be_ready(&mut self) {
        self.audience().await;
        self.act().await;
        self.audience().await;
    }

    async fn audience(&mut self) {
        loop {
            self.follow_orders().await;
            tokio::select! {
                biased;
                () = self.room.somebody() => return,
                () = self.room.called() => {}
            }
        }
    }

    async fn follow_orders(&mut self) {
        if self.room.take_order(Order::End) {
            self.curtain().await;
        }
    }

    /// Ends the broadcast as a host does, and waits for the next one to be ordered.
    async fn curtain(&mut self) {
        self.control(3).await;
        self.end().await;
        while !self.room.take_order(Order::Start) {
            self.room.called().await;
        }
        self.begin();
    }

    async fn control(&mut self, action: u32) {
        let stamp = self.stamp();
        let payload = load::messages::control(&stamp, action).into();
        let message = message("WebcastControlMessage", payload, stamp.msg_id);
        self.send(vec![(None, message)]).await;
    }

    /// Does what faults have made due.
    async fn act(&mut self) {
        for (only, act) in self.room.acts_due() {
            tracing::info!(creator = self.room.name, ?act, ?only, "fault");
            let room = self.room.clone();
            match act {
                Act::Drop => room.tell_and_forget(&Tell::Drop, only).await,
                Act::Hang => room.tell_and_forget(&Tell::Hang, only).await,
                Act::Reset => room.tell_and_forget(&Tell::Reset, only).await,
                Act::HalfFrame => room.tell_and_forget(&Tell::HalfFrame, only).await,
                Act::Close { code, reason } => {
                    let close = Tell::Close { code, reason };
                    room.tell_and_forget(&close, only).await;
                }
                Act::Deaf => room.tell(&Tell::Deaf, only).await,
                Act::WrongHeader => room.tell(&Tell::WrongHeader, only).await,
                Act::Frame { bytes } => room.tell(&Tell::Raw(bytes), only).await,
                Act::GzipBomb { mebibytes } => {
                    let bomb = wire::gzip_bomb(mebibytes);
                    room.tell(&Tell::Raw(bomb.into()), only).await;
                }
                Act::Text { text } => room.tell(&Tell::Text(text), only).await,
                Act::Message { method, payload } => self.extra.push((method, payload)),
                Act::Resend { count, history } => self.resend(count, history, only).await,
                Act::Streak {
                    coins,
                    counts,
                    ended,
                } => self.streak(coins, &counts, ended).await,
                Act::Control { action } => self.control(action).await,
                Act::Pause { ms } => {
                    self.control(1).await;
                    room.pause(true);
                    sleep(Duration::from_millis(ms)).await;
                    room.pause(false);
                    self.control(2).await;
                }
                Act::Restart => {
                    room.tell_and_forget(&Tell::Drop, None).await;
                    self.begin();
                }
                Act::Interrupt { ms } => {
                    room.interrupt().await;
                    sleep(Duration::from_millis(ms)).await;
                    room.resume();
                }
                Act::End => self.curtain().await,
            }
        }
    }

    async fn resend(&mut self, count: usize, flagged: bool, only: Option<Provider>) {
        let again = self.room.last(count, flagged);
        let ledger = &self.stage.ledger;
        ledger.count(|counts| counts.resent += again.len() as u64);
        self.room.tell(&Tell::Again(Arc::new(again)), only).await;
    }

    /// A streak whose messages come in any order.
    async fn streak(&mut self, coins: u32, counts: &[u32], ended: bool) {
        let gift = load::messages::priced(coins);
        let highest = counts.iter().max().copied().unwrap_or(1);
        let steps = counts.iter().map(|&repeat| (repeat, false));
        let steps = steps.chain(ended.then_some((highest, true)));
        let who = load::messages::Person(u32::MAX);
        let group = fresh::id().unsigned_abs() >> 32;
        let mut messages = Vec::new();
        for (repeat, end) in steps {
            let stamp = self.stamp();
            let event = Event::Gift(GiftEvent {
                who,
                gift,
                repeat,
                group,
                end,
            });
            let (method, payload) = event.encode(&stamp, 0);
            messages.push((None, message(method, payload.into(), stamp.msg_id)));
        }
        self.send(messages).await;
    }
}

fn message(method: &str, payload: Bytes, msg_id: i64) -> RoomMessage {
    RoomMessage {
        method: method.to_owned(),
        payload,
        msg_id,
        ..RoomMessage::default()
    }
}

/// How long to wait where the recording waited `recorded` milliseconds.
fn gap(pace: Pace, recorded: i64) -> Duration {
    match pace {
        Pace::AsFastAsPossible => Duration::ZERO,
        Pace::Every(gap) => gap,
        Pace::Recorded { max_gap, speed } => {
            let recorded = Duration::from_millis(u64::try_from(recorded).unwrap_or(0));
            recorded.min(max_gap).div_f64(speed)
        }
    }
}

/// The new header of each recorded message id of a lap.
#[derive(Default)]
struct Ids(HashMap<i64, (i64, i64)>);

impl Ids {
    /// The recorded line as a message of today.
    fn renew(&mut self, line: &Line, room_id: i64, now: i64) -> RoomMessage {
        let old = patch::header(&line.payload).unwrap_or_default();
        let fresh = || (fresh::id(), shift(old.create_time, line.at, now));
        let (msg_id, create_time) = match old.msg_id {
            0 => fresh(),
            // A message that is sent again is the same message: same id, same time.
            id => *self.0.entry(id).or_insert_with(fresh),
        };
        let new = Header {
            msg_id,
            room_id,
            create_time,
        };
        RoomMessage {
            method: line.method.clone(),
            payload: patch::patch(&line.payload, new).into(),
            msg_id,
            ..RoomMessage::default()
        }
    }
}

/// A recorded time moved so that the message is as old now as it was when it arrived. 0 stays 0,
/// seconds stay seconds.
fn shift(recorded: i64, arrived: i64, now: i64) -> i64 {
    match recorded {
        0 => 0,
        seconds if seconds < SECONDS_BELOW => (seconds * 1000 - arrived + now) / 1000,
        millis => millis - arrived + now,
    }
}

#[cfg(test)]
mod tests;

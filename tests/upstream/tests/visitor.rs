//! A small client that does all of it right: looks, signs, connects, enters, beats, acknowledges.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest},
};
use url::Url;

use crate::{
    Upstream,
    wire::{self, EnterRoom, FetchResult, HeartBeat, PushFrame, RoomMessage},
};

pub(super) const AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64) Test/1";
pub(super) const WEB_PARAMS: &str = "aid=1988&app_language=en&app_name=tiktok_web&browser_language=en-US&\
    browser_name=Mozilla&browser_online=true&browser_platform=Win32&\
    browser_version=5.0+%28X11%3B+Linux+x86_64%29+Test%2F1&cookie_enabled=true&\
    device_platform=web_pc&focus_state=true&from_page=user&history_len=10&is_fullscreen=false&\
    is_page_visible=true&screen_height=1080&screen_width=1920&tz_name=Europe%2FBerlin&\
    referer=https%3A%2F%2Fwww.tiktok.com%2F&root_referer=https%3A%2F%2Fwww.tiktok.com%2F&\
    channel=tiktok_web&data_collection_enabled=true&os=windows&priority_region=DE&region=DE&\
    user_is_login=false&webcast_language=en&device_id=7301234567890123456";

pub(super) struct Visitor {
    pub(super) base: String,
    pub(super) http: reqwest::Client,
}

pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Visitor {
    pub(super) fn new(upstream: &Upstream) -> Self {
        // Only the first test of the process installs it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .user_agent(AGENT)
            .build()
            .unwrap();
        Self {
            base: upstream.base_url(),
            http,
        }
    }

    pub(super) async fn get(&self, path: &str) -> reqwest::Response {
        let request = self.http.get(format!("{}{path}", self.base));
        request
            .header("accept", "application/protobuf, application/json")
            .header("accept-language", "en")
            .send()
            .await
            .unwrap()
    }

    pub(super) async fn json(&self, path: &str) -> serde_json::Value {
        self.get(path).await.json().await.unwrap()
    }

    pub(super) async fn room_id(&self, name: &str) -> String {
        let path = format!("/api-live/user/room/?{WEB_PARAMS}&uniqueId={name}&sourceType=54");
        let user = self.json(&path).await["data"]["user"].clone();
        user["roomId"].as_str().unwrap().to_owned()
    }

    pub(super) async fn sign(&self, room_id: &str) -> Result<(FetchResult, String), u16> {
        let agent: String = url::form_urlencoded::byte_serialize(AGENT.as_bytes()).collect();
        let path =
            format!("/webcast/rooms/{room_id}/connect?client=ttlive-rust&user_agent={agent}");
        let answer = self.get(&path).await;
        if !answer.status().is_success() {
            return Err(answer.status().as_u16());
        }
        assert_eq!(answer.headers()["x-room-id"], room_id);
        let cookie = answer.headers()["x-set-tt-cookie"].to_str().unwrap();
        let cookie = cookie.split(';').next().unwrap().to_owned();
        Ok((
            FetchResult::decode(answer.bytes().await.unwrap()).unwrap(),
            cookie,
        ))
    }

    /// The handshake, with `edit` having a last word about the address.
    pub(super) async fn open(
        &self,
        room_id: &str,
        signed: &(FetchResult, String),
        edit: impl FnOnce(String) -> String,
    ) -> Result<Socket, tungstenite::Error> {
        let (result, cookie) = signed;
        let mut url = Url::parse(&result.push_server).unwrap();
        url.query_pairs_mut()
            .append_pair("version_code", "180800")
            .extend_pairs(
                url::form_urlencoded::parse(WEB_PARAMS.as_bytes()).filter(|(key, _)| {
                    key.starts_with("browser")
                        || key.starts_with("screen")
                        || key.ends_with("language")
                }),
            )
            .extend_pairs([
                ("aid", "1988"),
                ("app_name", "tiktok_web"),
                ("cookie_enabled", "true"),
                ("tz_name", "Europe/Berlin"),
                ("device_platform", "web"),
                ("User-Agent", AGENT),
                ("compress", "gzip"),
                ("room_id", room_id),
                ("cursor", &result.cursor),
                ("identity", "audience"),
                ("live_id", "12"),
                ("ws_direct", "0"),
                ("sup_ws_ds_opt", "1"),
                ("update_version_code", "2.0.0"),
                ("did_rule", "3"),
                ("heartbeat_duration", "0"),
                ("resp_content_type", "protobuf"),
                ("history_comment_count", "6"),
                ("client_enter", "1"),
                ("last_rtt", "123.4"),
                ("internal_ext", &result.internal_ext),
            ])
            .extend_pairs(
                result
                    .route_params
                    .iter()
                    .filter(|(_, value)| !value.is_empty()),
            )
            .append_pair("version_code", "270000");
        let mut request = edit(url.into()).into_client_request().unwrap();
        request
            .headers_mut()
            .insert("user-agent", AGENT.parse().unwrap());
        request
            .headers_mut()
            .insert("cookie", cookie.parse().unwrap());
        tokio_tungstenite::connect_async(request)
            .await
            .map(|(socket, _)| socket)
    }

    pub(super) async fn connect(&self, room_id: &str) -> Client {
        let signed = self.sign(room_id).await.unwrap();
        let socket = self.open(room_id, &signed, |url| url).await.unwrap();
        let room_id = room_id.parse().unwrap();
        Client {
            socket,
            room_id,
            beats: 0,
            history: signed.0.messages,
        }
    }

    pub(super) async fn enter(&self, name: &str) -> Client {
        let mut client = self.connect(&self.room_id(name).await).await;
        client.enter().await;
        client
    }
}

pub(super) struct Client {
    pub(super) socket: Socket,
    pub(super) room_id: i64,
    pub(super) beats: i64,
    pub(super) history: Vec<RoomMessage>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Got {
    Messages(Vec<RoomMessage>),
    Reply(String),
    Binary(Bytes),
    Text(String),
    Closed(Option<(u16, String)>),
}

impl Client {
    pub(super) async fn say(&mut self, payload_type: &str, log_id: i64, payload: Vec<u8>) {
        let frame = PushFrame {
            log_id,
            payload_encoding: "pb".into(),
            payload_type: payload_type.into(),
            payload: payload.into(),
            ..PushFrame::default()
        };
        let _ = self
            .socket
            .send(Message::Binary(frame.encode_to_vec().into()))
            .await;
    }

    pub(super) async fn enter(&mut self) {
        let enter = EnterRoom {
            room_id: self.room_id,
            live_id: 12,
            identity: "audience".into(),
            filter_welcome_msg: "0".into(),
            ..EnterRoom::default()
        };
        self.say("im_enter_room", 0, enter.encode_to_vec()).await;
        self.beat().await;
    }

    pub(super) async fn beat(&mut self) {
        self.beats += 1;
        let beat = HeartBeat {
            room_id: self.room_id,
            send_packet_seq_id: self.beats,
        };
        self.say("hb", 0, beat.encode_to_vec()).await;
    }

    pub(super) async fn next(&mut self) -> Got {
        let waited = tokio::time::timeout(Duration::from_secs(10), self.socket.next()).await;
        match waited.expect("something within 10 s") {
            Some(Ok(Message::Binary(bytes))) => match wire::read_server_frame(&bytes, 1 << 24) {
                Ok((frame, Some(result))) => {
                    if result.need_ack {
                        let ack = result.internal_ext.into_bytes();
                        self.say("ack", frame.log_id, ack).await;
                    }
                    Got::Messages(result.messages)
                }
                Ok((frame, None)) => Got::Reply(frame.payload_type),
                Err(_) => Got::Binary(bytes),
            },
            Some(Ok(Message::Text(text))) => Got::Text(text.to_string()),
            Some(Ok(Message::Close(Some(frame)))) => {
                Got::Closed(Some((frame.code.into(), frame.reason.to_string())))
            }
            Some(Ok(_)) => panic!("neither pings nor anything else is expected"),
            None | Some(Err(_)) => Got::Closed(None),
        }
    }

    /// Reads to the end of the connection: the messages, and how it ended.
    pub(super) async fn drain(&mut self) -> (Vec<RoomMessage>, Option<(u16, String)>) {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Got::Messages(messages) => all.extend(messages),
                Got::Closed(how) => return (all, how),
                Got::Reply(_) | Got::Binary(_) | Got::Text(_) => {}
            }
        }
    }
}

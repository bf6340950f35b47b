//! Every method name that is known, and whether its content is read: so that none is forgotten.

use serde_json::{Map, json};
use shared::event::{EventType, Payload};
use shared::raw::RawData;

use super::fixtures::envelope;
use crate::normalizer::normalize;

/// Has an event type of its own, whatever it says.
const OWN: &[&str] = &[
    "WebcastBarrageMessage",
    "WebcastChatMessage",
    "WebcastEmoteChatMessage",
    "WebcastGiftMessage",
    "WebcastLikeMessage",
    "WebcastLinkMicArmies",
    "WebcastLinkMicBattle",
    "WebcastMemberMessage",
    "WebcastRoomUserSeqMessage",
    "WebcastSubNotifyMessage",
];

/// `RAW` with typed content. The first two have an event type for what they mostly say.
const DECODED: &[&str] = &[
    "WebcastControlMessage",
    "WebcastSocialMessage",
    "LinkMicMethod",
    "RoomMessage",
    "SyntheticJoinMessage",
    "SyntheticLeaveMessage",
    "SystemMessage",
    "WebcastCaptionMessage",
    "WebcastEnvelopeMessage",
    "WebcastGoalUpdateMessage",
    "WebcastHourlyRankRewardMessage",
    "WebcastImDeleteMessage",
    "WebcastInRoomBannerMessage",
    "WebcastLinkLayerMessage",
    "WebcastLinkMessage",
    "WebcastLinkMicBattleItemCard",
    "WebcastLinkMicBattlePunishFinish",
    "WebcastLinkMicFanTicketMethod",
    "WebcastLinkMicMethod",
    "WebcastLinkmicBattleTaskMessage",
    "WebcastLiveIntroMessage",
    "WebcastOecLiveShoppingMessage",
    "WebcastPollMessage",
    "WebcastQuestionNewMessage",
    "WebcastRankTextMessage",
    "WebcastRankUpdateMessage",
    "WebcastRoomMessage",
    "WebcastRoomPinMessage",
    "WebcastSubPinEventMessage",
    "WebcastSystemMessage",
    "WebcastToastMessage",
    "WebcastUnauthorizedMemberMessage",
];

/// `RAW` with its data alone: nobody has published what their fields mean, or they are noise.
const UNREAD: &[&str] = &[
    "WebcastAISummaryMessage",
    "WebcastAccessControlMessage",
    "WebcastAccessRecallMessage",
    "WebcastAnchorToolModificationMessage",
    "WebcastBALeadGenMessage",
    "WebcastBoostCardMessage",
    "WebcastBottomMessage",
    "WebcastCapsuleMessage",
    "WebcastCommentTrayMessage",
    "WebcastDonationStickerModifyMethod",
    "WebcastEcShortItemRefreshMessage",
    "WebcastEcTaskRegisterMessage",
    "WebcastEnvelopePortalMessage",
    "WebcastGameRankNotifyMessage",
    "WebcastGameServerFeatureMessage",
    "WebcastGiftBroadcastMessage",
    "WebcastGiftCollectionUpdateMessage",
    "WebcastGiftDynamicRestrictionMessage",
    "WebcastGiftPanelUpdateMessage",
    "WebcastGiftPromptMessage",
    "WebcastGoodyBagMessage",
    "WebcastGuideMessage",
    "WebcastHashtagMessage",
    "WebcastHourlyRankMessage",
    "WebcastInRoomBannerRefreshMessage",
    "WebcastLinkMicAnchorGuideMessage",
    "WebcastLinkMicLayoutStateMessage",
    "WebcastLinkScreenChangeMessage",
    "WebcastLinkStateMessage",
    "WebcastLinkmicBattleNoticeMessage",
    "WebcastLiveGameIntroMessage",
    "WebcastMarqueeAnnouncementMessage",
    "WebcastMsgDetectMessage",
    "WebcastNoticeMessage",
    "WebcastPaidContentLiveShoppingMessage",
    "WebcastPartnershipCardChangeMessage",
    "WebcastPartnershipDownloadCountMessage",
    "WebcastPartnershipDropsUpdateMessage",
    "WebcastPartnershipGameOfflineMessage",
    "WebcastPartnershipPunishMessage",
    "WebcastPerceptionMessage",
    "WebcastPictionaryEndMessage",
    "WebcastPictionaryExitMessage",
    "WebcastPictionaryStartMessage",
    "WebcastPictionaryUpdateMessage",
    "WebcastPrivilegeAdvanceMessage",
    "WebcastQuestionDeleteMessage",
    "WebcastQuestionSelectedMessage",
    "WebcastQuestionSlideDownMessage",
    "WebcastQuestionSwitchMessage",
    "WebcastRoomNotifyMessage",
    "WebcastRoomStickerMessage",
    "WebcastRoomVerifyMessage",
    "WebcastSpeakerMessage",
    "WebcastSubTimerStickerMessage",
    "WebcastSubWaveMessage",
    "WebcastSubscriptionGuideMessage",
    "WebcastViewerPicksUpdateMessage",
    "WebcastWeeklyRankRewardMessage",
    "roomInfo",
    "tiktok.connect",
    "tiktok.disconnect",
    "tiktok.rawBytes",
    "workerInfo",
];

/// `None` for an event type of its own, else whether its content was read.
fn decoded(kind: &str, data: RawData) -> Option<bool> {
    match normalize(&envelope(kind, data, 1)).unwrap().payload {
        Payload::Raw(raw) => Some(raw.decoded.is_some()),
        other => {
            assert_ne!(other.event_type(), EventType::Raw);
            None
        }
    }
}

#[test]
fn every_known_method_is_read_as_far_as_it_is_known() {
    let table = [(OWN, None), (DECODED, Some(true)), (UNREAD, Some(false))];
    for (kinds, wanted) in table {
        for kind in kinds {
            assert_eq!(decoded(kind, RawData::Protobuf(vec![])), wanted, "{kind}");
            assert_eq!(
                decoded(kind, RawData::Json(Map::new())),
                wanted,
                "{kind} as JSON"
            );
        }
    }
}

#[test]
fn unread_data_survives() {
    for kind in UNREAD {
        let bytes = RawData::Protobuf(vec![0x12, 2, b'h', b'i']);
        let Payload::Raw(raw) = normalize(&envelope(kind, bytes, 1)).unwrap().payload else {
            panic!("{kind}")
        };
        assert_eq!((raw.raw_type.as_str(), raw.raw), (*kind, json!("EgJoaQ==")));

        let object = json!({"any": {"thing": [1, "2", null, {"deep": true}]}});
        let data = RawData::Json(object.as_object().unwrap().clone());
        let Payload::Raw(raw) = normalize(&envelope(kind, data, 1)).unwrap().payload else {
            panic!("{kind}")
        };
        assert_eq!(raw.raw, object, "{kind}");
    }
}

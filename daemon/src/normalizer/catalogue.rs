//! Names and prices of gifts, for messages that come without.
//!
//! Comes in: gifts that say what they are, and a list that ingest has fetched, where there is one.
//! Goes out: the missing name, price and picture. What messages say counts more than the list, for
//! it is what TikTok charges here and now. Bounded: past [`MAX_LEARNED`] gifts nothing new is
//! learned, and over-long texts are not kept. A list that cannot be read is as good as none.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use shared::event::Gift;

/// More gifts than TikTok has.
const MAX_LEARNED: usize = 4_096;
const MAX_NAME: usize = 200;
const MAX_URL: usize = 1_000;

/// What is known of a gift; also its form in Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Known {
    /// Such as `Rose`.
    pub name: String,
    /// For one item.
    pub coins: u64,
    /// Its picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_url: Option<String>,
}

/// All that is known of gifts.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    learned: BTreeMap<String, Known>,
    listed: HashMap<String, Known>,
    /// Ids that differ from what was written down.
    changed: BTreeSet<String>,
}

impl Catalogue {
    /// Takes what a gift says, or tells it what it does not say.
    pub(super) fn complete(&mut self, gift: &mut Gift) {
        if gift.gift_name.is_some() && gift.coins.unit > 0 {
            self.learn(gift);
            return;
        }
        let Some(known) = self
            .learned
            .get(&gift.gift_id)
            .or_else(|| self.listed.get(&gift.gift_id))
        else {
            return;
        };
        // A gift with a name and no price is free, whatever it cost another time.
        if gift.gift_name.is_none() {
            gift.gift_name = Some(known.name.clone());
            if gift.coins.unit == 0 {
                gift.coins.unit = known.coins;
                gift.coins.total = known.coins.saturating_mul(gift.gift_count);
            }
        }
        if gift.image_url.is_none() {
            gift.image_url.clone_from(&known.image_url);
        }
    }

    fn learn(&mut self, gift: &Gift) {
        let Some(name) = gift
            .gift_name
            .as_ref()
            .filter(|name| name.len() <= MAX_NAME)
        else {
            return;
        };
        match self.learned.get(&gift.gift_id) {
            // The address of a picture is another one in every message.
            Some(known) if known.name == *name && known.coins == gift.coins.unit => return,
            None if self.learned.len() >= MAX_LEARNED || gift.gift_id == "0" => return,
            _ => {}
        }
        let known = Known {
            name: name.clone(),
            coins: gift.coins.unit,
            image_url: gift.image_url.clone().filter(|url| url.len() <= MAX_URL),
        };
        self.learned.insert(gift.gift_id.clone(), known);
        self.changed.insert(gift.gift_id.clone());
    }

    /// Takes a fetched list, by gift id, in place of the last one.
    pub(super) fn list(&mut self, listed: HashMap<String, Known>) {
        self.listed = listed;
    }

    // ---- what is written down

    pub(super) fn changes(&mut self) -> Vec<(String, Option<String>)> {
        std::mem::take(&mut self.changed)
            .into_iter()
            .map(|id| {
                let text = self
                    .learned
                    .get(&id)
                    .and_then(|known| serde_json::to_string(known).ok());
                (id, text)
            })
            .collect()
    }

    pub(super) fn all_changed(&mut self) {
        self.changed.extend(self.learned.keys().cloned());
    }

    pub(super) fn restore(&mut self, id: &str, text: &str) -> bool {
        match serde_json::from_str(text) {
            Ok(known) => {
                self.learned.insert(id.to_owned(), known);
                true
            }
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::event::{Coins, Streak, StreakState};

    use super::*;

    fn gift(id: &str, name: Option<&str>, unit: u64) -> Gift {
        Gift {
            raw_type: "WebcastGiftMessage".into(),
            gift_id: id.into(),
            gift_name: name.map(Into::into),
            gift_count: 3,
            coins: Coins {
                unit,
                total: unit * 3,
            },
            image_url: None,
            streak: Streak {
                id: "1-2-3".into(),
                state: StreakState::Single,
                inferred: false,
            },
            recipient: None,
        }
    }

    fn known(name: &str, coins: u64) -> Known {
        Known {
            name: name.into(),
            coins,
            image_url: Some("https://x/y.webp".into()),
        }
    }

    #[test]
    fn messages_teach_and_the_list_helps_out() {
        let mut catalogue = Catalogue::default();
        let listed = [("1", known("Rose", 2)), ("2", known("Star", 99))];
        catalogue.list(listed.map(|(id, known)| (id.to_owned(), known)).into());
        catalogue.complete(&mut gift("1", Some("Rose"), 1));

        let mut bare = gift("1", None, 0);
        catalogue.complete(&mut bare);
        assert_eq!(bare.gift_name.as_deref(), Some("Rose"));
        assert_eq!(
            bare.coins,
            Coins { unit: 1, total: 3 },
            "as the message said"
        );
        let mut bare = gift("2", None, 0);
        catalogue.complete(&mut bare);
        assert_eq!(
            bare.coins,
            Coins {
                unit: 99,
                total: 297
            }
        );
        assert_eq!(bare.image_url.as_deref(), Some("https://x/y.webp"));
        let mut unknown = gift("3", None, 0);
        catalogue.complete(&mut unknown);
        assert_eq!(unknown, gift("3", None, 0));
        let mut free = gift("2", Some("Star"), 0);
        catalogue.complete(&mut free);
        assert_eq!(free.coins.unit, 0, "it says that it is free");
    }

    #[test]
    fn what_was_learned_is_written_once_and_read_again() {
        let mut catalogue = Catalogue::default();
        catalogue.complete(&mut gift("1", Some("Rose"), 1));
        catalogue.complete(&mut gift("1", Some("Rose"), 1));
        let changes = catalogue.changes();
        assert_eq!(changes.len(), 1);
        assert!(catalogue.changes().is_empty());
        catalogue.complete(&mut gift("1", Some("Rose"), 1));
        assert!(catalogue.changes().is_empty(), "nothing new");
        catalogue.complete(&mut gift("1", Some("Rose"), 5));
        assert_eq!(catalogue.changes().len(), 1, "a new price");

        let mut again = Catalogue::default();
        assert!(again.restore(&changes[0].0, changes[0].1.as_ref().unwrap()));
        assert!(!again.restore("2", "no"));
        let mut bare = gift("1", None, 0);
        again.complete(&mut bare);
        assert_eq!(bare.coins.unit, 1);
    }

    #[test]
    fn what_is_learned_is_bounded() {
        let mut catalogue = Catalogue::default();
        for id in 1..=MAX_LEARNED + 10 {
            catalogue.complete(&mut gift(&id.to_string(), Some("Rose"), 1));
        }
        catalogue.complete(&mut gift("5", Some(&"x".repeat(MAX_NAME + 1)), 1));
        assert_eq!(catalogue.learned.len(), MAX_LEARNED);
        assert_eq!(catalogue.learned["5"].name, "Rose");
    }
}

//! Which faults of a creator are due: asked once for every request and before every frame.

use super::Room;
use crate::{
    fault::{Act, Fault, Place, Refusal, Trouble},
    ledger::Provider,
};

impl Room {
    /// Arms a fault.
    pub(crate) fn arm(&self, mut fault: Fault) {
        let scene = &mut *self.scene();
        if let Fault::Playback { after_frames, .. } | Fault::On { after_frames, .. } = &mut fault {
            *after_frames += scene.frames;
        }
        scene.faults.push(fault);
        self.called.notify_one();
    }

    fn find_due<T>(&self, mut hit: impl FnMut(&mut Fault) -> Option<T>) -> Option<T> {
        self.scene().faults.iter_mut().find_map(&mut hit)
    }

    /// Whether this look-up shall get a captcha.
    pub(crate) fn captcha_due(&self) -> bool {
        self.find_due(|fault| match fault {
            Fault::Captcha { skip, times } => due(skip, times).then_some(()),
            _ => None,
        })
        .is_some()
    }

    /// How this signing request shall be refused.
    pub(crate) fn refusal_due(&self) -> Option<Refusal> {
        self.find_due(|fault| match fault {
            Fault::Sign {
                skip,
                times,
                refusal,
            } => due(skip, times).then(|| refusal.clone()),
            _ => None,
        })
    }

    /// With what message and status this handshake shall be refused.
    pub(crate) fn handshake_refusal_due(&self) -> Option<(String, u32)> {
        self.find_due(|fault| match fault {
            Fault::Handshake {
                skip,
                times,
                message,
                status,
            } => due(skip, times).then(|| (message.clone(), *status)),
            _ => None,
        })
    }

    /// What shall happen to this HTTP answer.
    pub(crate) fn trouble_due(&self, here: Place) -> Option<Trouble> {
        self.find_due(|fault| match fault {
            Fault::Http {
                place,
                skip,
                times,
                trouble,
            } if *place == here => due(skip, times).then(|| trouble.clone()),
            _ => None,
        })
    }

    /// With what code and reason Euler shall close this socket at once.
    pub(crate) fn euler_close_due(&self) -> Option<(u16, String)> {
        self.find_due(|fault| match fault {
            Fault::EulerClose {
                skip,
                times,
                code,
                reason,
            } => due(skip, times).then(|| (*code, reason.clone())),
            _ => None,
        })
    }

    /// What shall happen in the stream before the next frame, and to whose sockets.
    pub(crate) fn acts_due(&self) -> Vec<(Option<Provider>, Act)> {
        let scene = &mut *self.scene();
        let sent = scene.frames;
        let mut acts = Vec::new();
        scene.faults.retain(|fault| {
            let (only, after_frames, act) = match fault {
                Fault::Playback { after_frames, act } => (None, after_frames, act),
                Fault::On {
                    provider,
                    after_frames,
                    act,
                } => (Some(*provider), after_frames, act),
                _ => return true,
            };
            if *after_frames > sent {
                return true;
            }
            acts.push((only, act.clone()));
            false
        });
        acts
    }
}

/// Counts one request against a fault; true when it is hit.
fn due(skip: &mut u32, times: &mut u32) -> bool {
    if *times == 0 {
        false
    } else if *skip > 0 {
        *skip -= 1;
        false
    } else {
        *times -= 1;
        true
    }
}

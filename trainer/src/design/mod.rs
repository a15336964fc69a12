//! Which layers to measure next: pure, and the same for the same campaign whenever it is asked.
//!
//! Every kind has a sequence of layers of its own, spread evenly over what real networks use ([`kinds`]) and drawn from
//! the campaign's id alone ([`draw`]). Adaptation only decides how far along each sequence a campaign goes
//! ([`share`]). So a trainer that lost its memory begins each sequence anew, passes over what has been measured, and
//! goes on: a layer that is proposed twice is one job to the coordinator.

mod draw;
mod kinds;
mod share;

use std::collections::{BTreeMap, BTreeSet};

use wattfarm_cost::id::CampaignId;
use wattfarm_cost::{Dtype, Hash, Kind, Layer};

use draw::Sequence;
pub use share::Standing;

/// Places of a sequence that may be passed over for one layer before the kind counts as used up: the narrowest kinds
/// have some thousands of different layers.
const PASSED_OVER_MAX: u32 = 2_000;

/// The designs of one campaign: a sequence for each of its kinds, and what has been proposed from them.
#[derive(Debug)]
pub struct Designer {
    dtype: Dtype,
    tracks: BTreeMap<Kind, Track>,
    /// Layers that have been proposed before.
    avoided: BTreeSet<Hash>,
}

/// One kind's sequence and how far along it the campaign is.
#[derive(Debug)]
struct Track {
    sequence: Sequence,
    next: u64,
    proposed: u64,
    /// No layer was found for a long while: there are no more.
    used_up: bool,
}

impl Designer {
    /// The designs of a campaign over `kinds` (none: every kind). Layers that the campaign excludes are proposed as well:
    /// the coordinator has the list, and passes over them.
    pub fn new(campaign: CampaignId, dtype: Dtype, kinds: &[Kind]) -> Self {
        let kinds = if kinds.is_empty() { &Kind::ALL } else { kinds };
        let track = |&kind: &Kind| {
            let seed = Hash::of(&format!("wattfarm.design.v1|{campaign}|{kind}"));
            (
                kind,
                Track {
                    sequence: Sequence::new(*seed.as_bytes()),
                    next: 0,
                    proposed: 0,
                    used_up: false,
                },
            )
        };
        Self {
            dtype,
            tracks: kinds.iter().map(track).collect(),
            avoided: BTreeSet::new(),
        }
    }

    /// The next `count` layers, fewer only if the space is used up. `standings` is where the campaign's kinds stand, as
    /// the coordinator tells it; layers that `is_known` need not be measured again.
    pub fn propose(
        &mut self,
        count: usize,
        standings: &BTreeMap<Kind, Standing>,
        is_known: impl Fn(&Hash) -> bool,
    ) -> Vec<Layer> {
        let mut layers = Vec::with_capacity(count);
        while layers.len() < count {
            let open = self.tracks.iter().filter(|(_, track)| !track.used_up);
            let standing = open.map(|(&kind, track)| {
                let told = standings.get(&kind).copied().unwrap_or_default();
                (
                    kind,
                    Standing {
                        samples: told.samples.max(track.proposed),
                        ..told
                    },
                )
            });
            let Some(kind) = share::next_kind(standing.collect()) else {
                break;
            };
            layers.extend(self.next_layer(kind, &is_known));
        }
        layers
    }

    /// The next layer of a kind that is new and within the limits; `None` marks the kind as used up.
    fn next_layer(&mut self, kind: Kind, is_known: impl Fn(&Hash) -> bool) -> Option<Layer> {
        let track = self.tracks.get_mut(&kind)?;
        for _ in 0..PASSED_OVER_MAX {
            let place = track.next;
            track.next += 1;
            let Some(layer) = kinds::layer(kind, self.dtype, &mut track.sequence.draw(place))
            else {
                continue;
            };
            let hash = layer.hash();
            if !is_known(&hash) && self.avoided.insert(hash) {
                track.proposed += 1;
                return Some(layer);
            }
        }
        track.used_up = true;
        None
    }
}

#[cfg(test)]
mod tests;

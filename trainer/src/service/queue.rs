//! The queue of each campaign, kept between two watermarks. Pure: the time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use wattfarm_cost::id::CampaignId;
use wattfarm_cost::{Hash, Kind, Layer};
use wattfarm_proto::error::FieldError;
use wattfarm_proto::{convert, v1};

use crate::design::{Designer, Standing};

/// Jobs outstanding below which more are proposed: some seconds of work for a few agents.
const LOW: u64 = 24;

/// Jobs outstanding up to which is proposed. A shorter queue would let new models steer sooner, a longer one would keep
/// more agents busy while the trainer is away.
const HIGH: u64 = 48;

/// The target error in percent of a campaign that states none.
const TARGET_ERROR: f64 = 10.0;

/// How long a campaign is left alone when a proposal brought it no job, or was refused.
const PAUSE: Duration = Duration::from_secs(1);

/// A campaign as the coordinator last told it.
#[derive(Debug, Clone)]
pub(super) struct CampaignStatus {
    id: CampaignId,
    /// `None` if the campaign names its platform by slug.
    platform: Option<Hash>,
    outstanding: u64,
    standings: BTreeMap<Kind, Standing>,
    request: v1::CampaignRequest,
}

impl TryFrom<v1::Campaign> for CampaignStatus {
    type Error = FieldError;

    fn try_from(message: v1::Campaign) -> Result<Self, FieldError> {
        let request = convert::required("request", message.request)?;
        let target_error = request
            .target_error
            .filter(|percent| *percent > 0.0)
            .unwrap_or(TARGET_ERROR);
        let standing = |progress: v1::campaign::KindProgress| {
            let kind: Kind = convert::parse("kinds", &progress.kind)?;
            let error_share = progress.rmspe.map(|rmspe| rmspe / target_error);
            Ok((
                kind,
                Standing {
                    samples: progress.samples,
                    error_share,
                },
            ))
        };
        Ok(Self {
            id: convert::parse("request.campaign_id", &request.campaign_id)?,
            platform: request.platform.parse().ok(),
            outstanding: message.jobs_outstanding,
            standings: message
                .kinds
                .into_iter()
                .map(standing)
                .collect::<Result<_, FieldError>>()?,
            request,
        })
    }
}

/// How a proposal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proposal {
    /// The coordinator took it, and made this many jobs of it.
    Taken {
        /// Jobs.
        queued: u64,
    },
    /// It did not: the campaign has ended, most likely.
    Refused,
}

/// The campaigns that have not ended.
#[derive(Debug, Default)]
pub(super) struct Queues {
    campaigns: BTreeMap<CampaignId, Queue>,
}

#[derive(Debug)]
struct Queue {
    status: CampaignStatus,
    designer: Designer,
    /// A proposal is on its way.
    is_proposing: bool,
    pause_until: Duration,
}

impl Queues {
    /// Takes the list of all campaigns that have not ended. One that cannot be understood is left out, with its fault.
    pub(super) fn follow(&mut self, campaigns: Vec<CampaignStatus>) -> Result<(), FieldError> {
        let mut known = std::mem::take(&mut self.campaigns);
        let mut fault = Ok(());
        for status in campaigns {
            let queue = match known.remove(&status.id) {
                Some(queue) => Ok(Queue { status, ..queue }),
                None => Queue::new(status),
            };
            match queue {
                Ok(queue) => _ = self.campaigns.insert(queue.status.id, queue),
                Err(error) => fault = Err(error),
            }
        }
        fault
    }

    /// What to propose now, for each campaign whose queue runs low. `is_measured` tells of a platform and a layer.
    pub(super) fn proposals(
        &mut self,
        now: Duration,
        is_measured: impl Fn(&Hash, &Hash) -> bool,
    ) -> Vec<(CampaignId, Vec<Layer>)> {
        let mut proposals = Vec::new();
        for (&id, queue) in &mut self.campaigns {
            let status = &queue.status;
            if queue.is_proposing || status.outstanding >= LOW || now < queue.pause_until {
                continue;
            }
            let is_known = |layer: &Hash| {
                status
                    .platform
                    .is_some_and(|platform| is_measured(&platform, layer))
            };
            let count = (HIGH - status.outstanding) as usize;
            let layers = queue.designer.propose(count, &status.standings, is_known);
            if !layers.is_empty() {
                queue.is_proposing = true;
                proposals.push((id, layers));
            }
        }
        proposals
    }

    /// Notes how a proposal ended.
    pub(super) fn proposed(&mut self, now: Duration, campaign: CampaignId, proposal: Proposal) {
        let Some(queue) = self.campaigns.get_mut(&campaign) else {
            return;
        };
        queue.is_proposing = false;
        match proposal {
            // Counted here until the coordinator's own count comes, so that nothing is proposed twice over.
            Proposal::Taken { queued } if queued > 0 => queue.status.outstanding += queued,
            Proposal::Taken { .. } | Proposal::Refused => queue.pause_until = now + PAUSE,
        }
    }
}

impl Queue {
    fn new(status: CampaignStatus) -> Result<Self, FieldError> {
        let request = &status.request;
        let kinds = request
            .kinds
            .iter()
            .map(|kind| convert::parse("request.kinds", kind));
        let designer = Designer::new(
            status.id,
            convert::dtype(request.dtype)?,
            &kinds.collect::<Result<Vec<Kind>, _>>()?,
        );
        Ok(Self {
            status,
            designer,
            is_proposing: false,
            pause_until: Duration::ZERO,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{campaign, platform};
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn follow(queues: &mut Queues, campaigns: &[v1::Campaign]) {
        let statuses: Result<Vec<_>, _> = campaigns
            .iter()
            .cloned()
            .map(CampaignStatus::try_from)
            .collect();
        queues
            .follow(statuses.expect("good campaigns"))
            .expect("good campaigns");
    }

    /// Numbers of layers proposed now.
    fn counts(queues: &mut Queues, now: Duration) -> Vec<usize> {
        queues
            .proposals(now, |_, _| false)
            .into_iter()
            .map(|(_, layers)| layers.len())
            .collect()
    }

    fn id(campaign: &v1::Campaign) -> CampaignId {
        CampaignStatus::try_from(campaign.clone())
            .expect("a good campaign")
            .id
    }

    #[test]
    fn the_queue_is_filled_to_the_high_mark_below_the_low_one() {
        for (outstanding, expected) in [
            (0, vec![48]),
            (23, vec![25]),
            (24, vec![]),
            (48, vec![]),
            (1000, vec![]),
        ] {
            let mut queues = Queues::default();
            follow(&mut queues, &[campaign(1, outstanding)]);
            assert_eq!(
                counts(&mut queues, NOW),
                expected,
                "{outstanding} outstanding"
            );
        }
    }

    #[test]
    fn one_proposal_at_a_time_and_its_jobs_count() {
        let (first, mut queues) = (campaign(1, 0), Queues::default());
        follow(&mut queues, std::slice::from_ref(&first));
        assert_eq!(counts(&mut queues, NOW), [48]);
        assert!(counts(&mut queues, NOW).is_empty(), "one is on its way");
        queues.proposed(NOW, id(&first), Proposal::Taken { queued: 30 });
        assert!(counts(&mut queues, NOW).is_empty(), "30 are outstanding");
        follow(&mut queues, &[campaign(1, 20)]);
        assert_eq!(counts(&mut queues, NOW), [28]);
        queues.proposed(NOW, id(&first), Proposal::Taken { queued: 3 });
        assert_eq!(counts(&mut queues, NOW), [25], "23 are outstanding");
    }

    #[test]
    fn a_fruitless_proposal_pauses() {
        let first = campaign(1, 0);
        for proposal in [Proposal::Taken { queued: 0 }, Proposal::Refused] {
            let mut queues = Queues::default();
            follow(&mut queues, std::slice::from_ref(&first));
            assert_eq!(counts(&mut queues, NOW), [48]);
            queues.proposed(NOW, id(&first), proposal);
            assert!(counts(&mut queues, NOW).is_empty());
            assert_eq!(counts(&mut queues, NOW + PAUSE), [48]);
        }
    }

    #[test]
    fn ended_campaigns_are_forgotten() {
        let (first, mut queues) = (campaign(1, 0), Queues::default());
        follow(&mut queues, &[first.clone(), campaign(2, 0)]);
        assert_eq!(counts(&mut queues, NOW), [48, 48]);
        follow(&mut queues, &[campaign(2, 0)]);
        queues.proposed(NOW, id(&first), Proposal::Refused);
        queues.proposed(NOW, id(&campaign(2, 0)), Proposal::Refused);
        assert_eq!(counts(&mut queues, NOW + PAUSE), [48]);
    }

    #[test]
    fn what_is_measured_is_not_proposed() {
        let mut queues = Queues::default();
        follow(&mut queues, &[campaign(1, 0)]);
        let [(_, first)] = queues
            .proposals(NOW, |_, _| false)
            .try_into()
            .expect("one campaign");
        let measured: Vec<Hash> = first.iter().map(Layer::hash).collect();
        let mut restarted = Queues::default();
        follow(&mut restarted, &[campaign(1, 0)]);
        let is_measured = |on: &Hash, layer: &Hash| *on == platform() && measured.contains(layer);
        let [(_, second)] = restarted
            .proposals(NOW, is_measured)
            .try_into()
            .expect("one campaign");
        assert!(second.iter().all(|layer| !measured.contains(&layer.hash())));
    }

    #[test]
    fn one_bad_campaign_stops_no_other() {
        let mut queues = Queues::default();
        let mut bad = campaign(1, 0);
        bad.request.as_mut().expect("a request").kinds = vec!["colour".to_owned()];
        let statuses = [bad, campaign(2, 0)]
            .map(|campaign| CampaignStatus::try_from(campaign).expect("readable"));
        assert_eq!(
            queues
                .follow(statuses.to_vec())
                .expect_err("a bad kind")
                .field,
            "request.kinds"
        );
        assert_eq!(counts(&mut queues, NOW), [48]);
    }
}

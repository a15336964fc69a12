//! What the tests share: small things to measure, and a farm whose clock and store the test owns.

use std::time::Duration;

use uuid::Uuid;
use wattfarm_coordinator::farm::{
    Acknowledgement, Budget, CampaignStatus, Change, CreateKey, CreateToken, DescribeJobs, Enroll,
    Event, Farm, GetCampaign, JobStatus, Lease, LeaseJobs, ListJobs, Outcome, Owner, ProposeLayers,
    Proposed, PublishModels, Refusal, Report, ReportResults, Request, RequestModels, Role,
    SecretHash, Timestamp, Weight,
};
use wattfarm_coordinator::recall::recall;
use wattfarm_coordinator::store::{MemoryStore, Store as _};
use wattfarm_cost::id::{AgentId, CampaignId, JobId, LeaseNumber};
use wattfarm_cost::layer::{Linear, Op, Value};
use wattfarm_cost::measurement::{Conditions, Reading, Recipe, Runtime};
use wattfarm_cost::model::{ModelKey, Provenance, Scale, Target, Validation};
use wattfarm_cost::platform::Device;
use wattfarm_cost::{Dtype, Hash, Kind, Layer, Model, Platform};

/// A CPU with so many threads: each a platform of its own.
pub(crate) fn platform(threads: u32) -> Platform {
    let device = Device::Cpu {
        model: "Test CPU".to_owned(),
        threads,
        instruction_set: "AVX2".to_owned(),
    };
    Platform {
        device,
        libtorch: "2.11.0".to_owned(),
    }
}

/// A linear layer: each number makes another.
pub(crate) fn layer(number: u64) -> Layer {
    let fields = [
        ("batch", 1),
        ("in_features", 16),
        ("out_features", number + 1),
    ];
    let fields = fields.map(|(name, size)| (name, Value::Size(size)));
    Layer::from_fields(Kind::Linear, fields).expect("valid")
}

/// A reading of so many ms, which took two seconds.
pub(crate) fn reading(median_ms: f64) -> Reading {
    let runtime = Runtime {
        median_ms,
        low_ms: median_ms * 0.9,
        high_ms: median_ms * 1.1,
        repetitions: 3,
        warmup: 1,
        disturbed: 0,
        samples_ms: vec![median_ms as f32; 3],
    };
    let conditions = Conditions {
        host: "test".to_owned(),
        seconds: 2.0,
        ..Conditions::default()
    };
    Reading {
        runtime,
        power: None,
        conditions,
    }
}

/// A runtime model of linear layers with such an error.
pub(crate) fn model(platform: Hash, rmspe: f64) -> Model {
    Model {
        key: ModelKey {
            platform,
            kind: Kind::Linear,
            dtype: Dtype::F32,
            target: Target::RuntimeMs,
        },
        version: 0,
        scale: Scale::flat(1.0),
        intercept: 0.0,
        terms: vec![],
        correction_min: -1.0,
        correction_max: 1.0,
        domain: vec![],
        validation: Validation {
            folds: 10,
            rmspe,
            mape: rmspe,
            medape: rmspe,
            log_residual_low: -0.1,
            log_residual_high: 0.1,
            bands: Vec::new(),
            correlation: 1.0,
            additivity: None,
            holdout: None,
        },
        provenance: Provenance {
            recipe: Recipe::LAYER,
            samples: 10,
            distinct: 10,
            through_sequence: 10,
            trainer_version: "test".to_owned(),
            devices: Vec::new(),
        },
    }
}

/// A UUID of a number.
pub(crate) fn uuid(number: u64) -> Uuid {
    Uuid::from_u64_pair(0, number)
}

/// A farm of which the test owns time and disk. After every event the invariants are checked.
pub(crate) struct World {
    pub(crate) farm: Farm,
    pub(crate) store: MemoryStore,
    pub(crate) now: Timestamp,
    fresh: u64,
    journal: Vec<Vec<Change>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let store = MemoryStore::default();
        let now = Timestamp(1_000_000);
        let farm = Farm::restore(store.load().expect("memory"), now);
        Self {
            farm,
            store,
            now,
            fresh: 0,
            journal: vec![],
        }
    }

    pub(crate) fn apply<E: Event>(&mut self, event: E) -> E::Reply {
        let (reply, changes) = self.apply_unstored(event);
        self.store.commit(&changes).expect("memory");
        self.farm.forget();
        self.journal.push(changes);
        reply
    }

    /// Takes an event that no disk hears of.
    pub(crate) fn apply_unstored<E: Event>(&mut self, event: E) -> (E::Reply, Vec<Change>) {
        recall(&mut self.farm, &self.store, &event).expect("memory");
        let applied = self.farm.apply(self.now, event);
        self.farm
            .check_invariants()
            .expect("the farm is consistent");
        applied
    }

    /// What has been stored so far, event by event.
    pub(crate) fn take_changes(&mut self) -> Vec<Vec<Change>> {
        std::mem::take(&mut self.journal)
    }

    pub(crate) fn pass(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
    }

    /// The coordinator dies and starts again from its disk.
    pub(crate) fn restart(&mut self) {
        self.farm = Farm::restore(self.store.load().expect("memory"), self.now);
        self.farm
            .check_invariants()
            .expect("the restored farm is consistent");
    }

    pub(crate) fn fresh(&mut self) -> Uuid {
        self.fresh += 1;
        uuid(self.fresh)
    }

    pub(crate) fn token(&mut self, token: &str) -> SecretHash {
        let token = SecretHash::of(token);
        self.apply(CreateToken {
            token,
            note: String::new(),
            ttl: Duration::from_secs(60),
        });
        token
    }

    /// Enrols an agent of that name on `platform(1)`; the name is its credential too.
    pub(crate) fn agent(&mut self, name: &str) -> SecretHash {
        let token = self.token(&format!("token of {name}"));
        let credential = SecretHash::of(name);
        let fresh_id = AgentId(self.fresh());
        let enroll = Enroll {
            token: Some(token),
            credential,
            name: name.to_owned(),
            platform: platform(1),
            fresh_id,
        };
        self.apply(enroll).expect("a good token");
        credential
    }

    /// Asks for models of linear layers on `platform(1)`.
    pub(crate) fn campaign(&mut self, number: u64, budget: Budget) -> CampaignId {
        let id = CampaignId(uuid(1_000_000 + number));
        self.apply(request(id, budget))
            .expect("a platform that is there");
        id
    }

    pub(crate) fn propose(
        &mut self,
        campaign: CampaignId,
        layers: impl IntoIterator<Item = u64>,
    ) -> Result<Proposed, Refusal> {
        let layers = layers
            .into_iter()
            .map(|number| (JobId(self.fresh()), layer(number)))
            .collect();
        self.apply(ProposeLayers { campaign, layers })
    }

    /// Every job, those that are over after those that are open.
    pub(crate) fn jobs(&mut self) -> Vec<JobStatus> {
        let open = ListJobs {
            platform: None,
            states: vec![],
            limit: usize::MAX,
        };
        let mut jobs = self.apply(open).expect("no platform named");
        let mut over = self.store.jobs_after(None, usize::MAX).expect("memory");
        over.retain(|job| !job.state.is_open());
        jobs.extend(self.apply(DescribeJobs(over)));
        jobs
    }

    pub(crate) fn status(&mut self, campaign: CampaignId) -> CampaignStatus {
        self.apply(GetCampaign(campaign))
            .expect("a campaign that is there")
    }

    /// Takes up to so many jobs, as an agent that holds none.
    pub(crate) fn lease(&mut self, credential: SecretHash, jobs_max: usize) -> Vec<Lease> {
        self.apply(LeaseJobs {
            credential,
            jobs_max,
            held: Some(vec![]),
        })
        .expect("enrolled")
        .leases
    }

    /// Takes a job besides those it has.
    pub(crate) fn lease_another(&mut self, credential: SecretHash) -> Option<Lease> {
        self.apply(LeaseJobs {
            credential,
            jobs_max: 1,
            held: None,
        })
        .expect("enrolled")
        .leases
        .pop()
    }

    pub(crate) fn report(
        &mut self,
        credential: SecretHash,
        (job, lease): (JobId, LeaseNumber),
        outcome: Outcome,
    ) -> Result<Acknowledgement, Refusal> {
        let reports = vec![Report {
            job,
            lease,
            outcome,
        }];
        self.apply(ReportResults {
            credential,
            reports,
        })
        .map(|booked| booked.acknowledgements[0])
    }

    pub(crate) fn measure(&mut self, credential: SecretHash, lease: &Lease) -> Acknowledgement {
        self.report(
            credential,
            (lease.job, lease.number),
            Outcome::Reading(Box::new(reading(1.0))),
        )
        .expect("its own lease")
    }
}

pub(crate) fn request(id: CampaignId, budget: Budget) -> RequestModels {
    let kinds = vec![Kind::Linear];
    let request = Request {
        kinds,
        dtype: Dtype::F32,
        target_error: Some(10.0),
        budget,
        excluded: vec![],
        weight: Weight::default(),
        urgent: false,
    };
    RequestModels {
        id,
        platform: platform(1).slug(),
        request,
        owner: Owner::Anonymous,
    }
}

/// The out_features of what is to be measured: the number that [`layer`] was made of, plus 1.
pub(crate) fn number(lease: &Lease) -> u64 {
    match &lease.task.subject {
        wattfarm_cost::Subject::Layer(layer) => match layer.op() {
            Op::Linear(Linear { out_features, .. }) => out_features - 1,
            op => panic!("{op:?} is no linear layer"),
        },
        wattfarm_cost::Subject::Network(network) => panic!("`{}` is no layer", network.name()),
    }
}

/// A farm with one of everything that a store holds: four jobs, two of them done and one leased.
pub(crate) fn lived() -> World {
    let mut world = World::new();
    let agent = world.agent("a");
    let campaign = world.campaign(1, Budget::Jobs(8));
    world.propose(campaign, 0..4).expect("room");
    for _ in 0..2 {
        let lease = world.lease_another(agent).expect("a job");
        world.measure(agent, &lease);
    }
    world.lease_another(agent).expect("a job");
    let hash = platform(1).hash();
    world
        .apply(PublishModels(vec![model(hash, 30.0)]))
        .expect("there");
    world
        .apply(PublishModels(vec![model(hash, 20.0)]))
        .expect("there");
    let key = CreateKey {
        key: SecretHash::of("a key"),
        id: uuid(7),
        name: "somebody".to_owned(),
        role: Role::Request,
        ttl: None,
    };
    world.apply(key).expect("room");
    world
}

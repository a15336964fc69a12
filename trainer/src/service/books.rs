//! What has been measured, by model, and which model is to be fitted next. Pure: the time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wattfarm_cost::Hash;
use wattfarm_cost::measurement::{Measurement, Recipe, Subject};
use wattfarm_cost::model::{Additivity, ModelKey, Target};
use wattfarm_proto::block;

use super::platform::PlatformBook;
use crate::fit::{Origin, Sample};

/// Different layers from which on a model is fitted at once.
const FIRST_FIT: usize = 5;

/// New samples that make a model stale at once, for each that its last fit had: one in ten.
const FITTED_PER_NEW: usize = 10;

/// Without a new measurement of a platform for this long, even one sample makes a model stale.
const QUIET: Duration = Duration::from_secs(2);

/// While measurements come, a model rests for this many times what its last fit took: fitting one model takes at most a
/// tenth of a core.
const REST: u32 = 10;

/// A newer recipe takes a model over once it has one layer for so many of the older's. Figures by different recipes are of
/// different things, so a model has one recipe's alone.
const OLDER_PER_NEWER: usize = 2;

/// Everything that was measured, in memory: rebuilt from the coordinator's log after a start.
#[derive(Debug, Default)]
pub(super) struct Books {
    accounts: BTreeMap<(ModelKey, Recipe), Account>,
    platforms: BTreeMap<Hash, PlatformBook>,
    /// The last measurement taken of each block.
    sequences: BTreeMap<u64, u64>,
    /// Measurements that were retracted before they came.
    retracted: BTreeSet<u64>,
}

/// The samples of one model by one recipe.
#[derive(Debug, Default)]
struct Account {
    samples: Vec<Sample>,
    /// The measurement that each sample is of; ascending.
    sequences: Vec<u64>,
    distinct: BTreeSet<Hash>,
    through_sequence: u64,
    /// Whether a sample has been retracted since a fit began.
    discounted: bool,
    /// Samples that the last fit had; 0 before the first.
    fitted: usize,
    rest_until: Duration,
    /// What had changed on the platform when the last fit began.
    changes: u64,
}

/// What a fit needs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Assignment {
    pub(super) key: ModelKey,
    pub(super) samples: Vec<Sample>,
    pub(super) origin: Origin,
    /// Whether samples have been retracted that the last version may have: it is replaced whatever its figures.
    pub(super) is_due: bool,
    /// What is published with a model of runtimes.
    pub(super) additivity: Option<Additivity>,
}

/// What a measurement says to each model. Networks are measured to judge models, not to fit them.
pub(crate) fn samples(measurement: &Measurement) -> Vec<(ModelKey, Sample)> {
    let Subject::Layer(layer) = &measurement.subject else {
        return Vec::new();
    };
    let reading = &measurement.reading;
    let power = reading.power.as_ref().map(|power| power.mean_w);
    let values = [
        (Target::RuntimeMs, Some(reading.runtime.median_ms)),
        (Target::PowerW, power),
        (Target::EnergyMj, reading.energy_mj()),
    ];
    let sample = |(target, value): (Target, Option<f64>)| {
        let key = ModelKey {
            platform: measurement.platform,
            kind: layer.kind(),
            dtype: layer.dtype(),
            target,
        };
        let sample = Sample {
            layer: layer.clone(),
            value: value?,
            runtime_ms: Some(reading.runtime.median_ms),
            agent: Some(measurement.agent),
        };
        Some((key, sample))
    };
    values.into_iter().filter_map(sample).collect()
}

impl Books {
    /// Takes a measurement, once.
    pub(super) fn take(&mut self, now: Duration, measurement: &Measurement) {
        let last = self
            .sequences
            .entry(block(measurement.sequence))
            .or_default();
        if measurement.sequence <= *last {
            return;
        }
        *last = measurement.sequence;
        if self.retracted.remove(&measurement.sequence) {
            // The newest version may have it all the same.
            for (key, _) in samples(measurement) {
                let account = self.accounts.entry((key, measurement.recipe)).or_default();
                account.discounted = true;
            }
            return;
        }
        let platform = self.platforms.entry(measurement.platform).or_default();
        platform.take(now, measurement);
        let hash = measurement.subject.hash();
        for (key, sample) in samples(measurement) {
            let account = self.accounts.entry((key, measurement.recipe)).or_default();
            account.samples.push(sample);
            account.sequences.push(measurement.sequence);
            account.distinct.insert(hash);
            account.through_sequence = measurement.sequence;
        }
    }

    /// Drops the samples of a measurement that was retracted: the models that they were in are fitted anew.
    pub(super) fn retract(&mut self, sequence: u64) {
        if self
            .sequences
            .get(&block(sequence))
            .is_none_or(|&last| sequence > last)
        {
            self.retracted.insert(sequence);
        }
        let mut keys = Vec::new();
        (self.platforms.values_mut()).for_each(|platform| platform.retract(sequence));
        for ((key, _), account) in &mut self.accounts {
            let Ok(index) = account.sequences.binary_search(&sequence) else {
                continue;
            };
            account.sequences.remove(index);
            let hash = account.samples.remove(index).layer.hash();
            keys.push(*key);
            if !(account.samples.iter()).any(|sample| sample.layer.hash() == hash) {
                account.distinct.remove(&hash);
            }
        }
        // By another recipe too: with one layer less it may be another's turn.
        for ((key, _), account) in &mut self.accounts {
            account.discounted |= keys.contains(key);
        }
    }

    /// Whether a layer has been measured on a platform, as layers are measured today.
    pub(super) fn is_measured(&self, platform: &Hash, layer: &Hash) -> bool {
        self.platforms
            .get(platform)
            .is_some_and(|book| book.is_measured(layer))
    }

    /// The fit to do next: of the stale models, the one whose last fit had the smallest part of its samples.
    pub(super) fn next_fit(&mut self, now: Duration) -> Option<Assignment> {
        let stale = self.accounts.iter().filter(|((key, recipe), account)| {
            (self.is_stale(now, key, account) || self.has_news(now, key, account))
                && self.recipe_of(key) == Some(*recipe)
        });
        let covered = |account: &Account| account.fitted as f64 / account.samples.len() as f64;
        let (&(key, recipe), _) = stale.min_by(|a, b| covered(a.1).total_cmp(&covered(b.1)))?;
        let account = self.accounts.get_mut(&(key, recipe))?;
        let platform = self.platforms.get(&key.platform);
        let is_due = std::mem::take(&mut account.discounted);
        account.changes = platform.map_or(0, |book| book.changes);
        let origin = Origin {
            recipe,
            through_sequence: account.through_sequence,
        };
        Some(Assignment {
            key,
            samples: account.samples.clone(),
            origin,
            is_due,
            additivity: match key.target {
                Target::RuntimeMs => platform.and_then(PlatformBook::additivity),
                Target::PowerW | Target::EnergyMj => None,
            },
        })
    }

    /// The newest recipe that has a fair part of a model's layers.
    fn recipe_of(&self, key: &ModelKey) -> Option<Recipe> {
        let layers = |recipe| {
            let account = self.accounts.get(&(*key, recipe));
            account.map_or(0, |account| account.distinct.len())
        };
        let most = Recipe::ALL.into_iter().map(layers).max()?;
        let newest_first = Recipe::ALL.into_iter().rev();
        newest_first
            .filter(|&recipe| layers(recipe) > 0)
            .find(|&recipe| layers(recipe) * OLDER_PER_NEWER >= most)
    }

    /// Whether networks have been measured since, and this is the model to tell it with: the platform's smallest of
    /// runtimes, which is soon fitted.
    fn has_news(&self, now: Duration, key: &ModelKey, account: &Account) -> bool {
        let Some(book) = self.platforms.get(&key.platform) else {
            return false;
        };
        if key.target != Target::RuntimeMs
            || account.samples.is_empty()
            || account.changes == book.changes
            || !book.is_settled(now)
        {
            return false;
        }
        let others = self.accounts.iter().filter(|((other, recipe), account)| {
            (other.platform, other.target) == (key.platform, key.target)
                && !account.samples.is_empty()
                && self.recipe_of(other) == Some(*recipe)
        });
        let smallest = others.min_by_key(|(_, account)| account.samples.len());
        smallest.is_some_and(|((smallest, _), _)| smallest == key)
    }

    fn is_stale(&self, now: Duration, key: &ModelKey, account: &Account) -> bool {
        let samples = account.samples.len();
        if samples == 0 {
            return false;
        }
        if account.discounted {
            return now >= account.rest_until;
        }
        if samples == account.fitted {
            return false;
        }
        // When nothing more comes, nobody is measuring whom a fit could disturb, and somebody may be waiting for it.
        let platform = self.platforms.get(&key.platform);
        if platform.is_some_and(|book| now >= book.last_arrival + QUIET) {
            return true;
        }
        now >= account.rest_until
            && match account.fitted {
                0 => account.distinct.len() >= FIRST_FIT,
                fitted => samples.abs_diff(fitted) * FITTED_PER_NEW >= fitted,
            }
    }

    /// Notes that a fit of the first `samples` samples ended, well or not, after `took`.
    pub(super) fn fitted(
        &mut self,
        now: Duration,
        (key, recipe): (ModelKey, Recipe),
        samples: usize,
        took: Duration,
    ) {
        if let Some(account) = self.accounts.get_mut(&(key, recipe)) {
            account.fitted = samples;
            account.rest_until = now + took * REST;
        }
    }
}

#[cfg(test)]
mod tests {
    use wattfarm_cost::Kind;

    use super::super::testing::{linear, measurement, measurement_of_network, platform, relu};
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Takes measurements `from..to` of as many different layers.
    fn take(books: &mut Books, now: Duration, from: u64, to: u64) {
        (from..to).for_each(|sequence| books.take(now, &measurement(sequence, relu(sequence))));
    }

    #[test]
    fn the_first_fit_waits_for_five_layers_or_for_quiet() {
        let mut books = Books::default();
        take(&mut books, seconds(10), 1, 5);
        assert_eq!(books.next_fit(seconds(10)), None);
        assert_eq!(
            books.next_fit(seconds(12)).map(|fit| fit.samples.len()),
            Some(4)
        );
        take(&mut books, seconds(10), 5, 6);
        let fit = books.next_fit(seconds(10)).expect("five layers");
        assert_eq!(
            (fit.samples.len(), fit.origin.through_sequence, fit.key.kind),
            (5, 5, Kind::Relu)
        );
    }

    #[test]
    fn replicas_are_samples_but_no_layers() {
        let mut books = Books::default();
        (1..=9).for_each(|sequence| {
            books.take(seconds(1), &measurement(sequence, relu(sequence % 4 + 1)))
        });
        assert_eq!(books.next_fit(seconds(1)), None);
    }

    #[test]
    fn growth_quiet_and_rest_decide_on_later_fits() {
        // (samples at the last fit, samples now, how long it took in s, seconds since, quiet, stale)
        let cases = [
            (100, 109, 0, 1, false, false),
            (100, 110, 0, 1, false, true),
            (100, 101, 0, 5, true, true),
            (100, 100, 0, 100, true, false),
            (100, 150, 3, 29, false, false),
            (100, 150, 3, 30, false, true),
        ];
        for (before, after, took, since, quiet, stale) in cases {
            let mut books = Books::default();
            take(&mut books, seconds(0), 1, before + 1);
            let key = books.next_fit(seconds(0)).expect("many layers").key;
            books.fitted(
                seconds(0),
                (key, Recipe::LAYER),
                before as usize,
                seconds(took),
            );
            let now = seconds(since);
            take(
                &mut books,
                if quiet { now - QUIET } else { now },
                before + 1,
                after + 1,
            );
            assert_eq!(
                books.next_fit(now).is_some(),
                stale,
                "{before} {after} {took} {since} {quiet}"
            );
        }
    }

    #[test]
    fn the_least_covered_model_is_first() {
        let mut books = Books::default();
        take(&mut books, seconds(0), 1, 11);
        let relu = books.next_fit(seconds(0)).expect("ten layers").key;
        books.fitted(seconds(0), (relu, Recipe::LAYER), 10, seconds(0));
        take(&mut books, seconds(0), 11, 31);
        (31..=36).for_each(|n| {
            books.take(
                seconds(0),
                &measurement(n, super::super::testing::linear(n)),
            )
        });
        let linear = books.next_fit(seconds(0)).expect("both are stale").key;
        assert_eq!(linear.kind, Kind::Linear);
        books.fitted(seconds(0), (linear, Recipe::LAYER), 6, seconds(0));
        assert_eq!(books.next_fit(seconds(0)).map(|fit| fit.key), Some(relu));
    }

    #[test]
    fn a_measurement_counts_once_and_networks_never() {
        let mut books = Books::default();
        take(&mut books, seconds(0), 1, 7);
        take(&mut books, seconds(0), 1, 7);
        books.take(seconds(0), &measurement_of_network(7));
        assert_eq!(
            books.next_fit(seconds(0)).map(|fit| fit.samples.len()),
            Some(6)
        );
        assert_eq!(
            books.next_fit(seconds(0)).map(|fit| fit.additivity),
            Some(None),
            "the network's layer is not among them"
        );
        take(&mut books, seconds(0), 8, 9);
        let fit = books.next_fit(seconds(0)).expect("its layer is");
        assert_eq!(fit.additivity.map(|found| found.networks), Some(1));
        assert!(
            books.is_measured(&platform(), &relu(3).hash())
                && !books.is_measured(&platform(), &relu(300).hash())
        );
    }

    #[test]
    fn a_network_measured_last_is_told_with_the_smallest_model() {
        let mut books = Books::default();
        take(&mut books, seconds(0), 1, 10);
        for (sequence, features) in [(10, 1), (11, 2), (12, 3)] {
            books.take(seconds(0), &measurement(sequence, linear(features)));
        }
        while let Some(fit) = books.next_fit(seconds(5)) {
            let samples = fit.samples.len();
            books.fitted(seconds(5), (fit.key, Recipe::LAYER), samples, seconds(0));
        }
        books.take(seconds(10), &measurement_of_network(13));
        assert_eq!(books.next_fit(seconds(39)), None, "another may follow");
        let fit = books.next_fit(seconds(40)).expect("there is news");
        assert_eq!(fit.key.kind, Kind::Linear);
        assert_eq!(fit.additivity.map(|found| found.networks), Some(1));
        books.fitted(seconds(41), (fit.key, Recipe::LAYER), 3, seconds(0));
        assert_eq!(books.next_fit(seconds(100)), None, "it has been told");
    }

    #[test]
    fn a_model_is_of_one_recipe_and_the_newest_once_it_has_half_as_many_layers() {
        let mut books = Books::default();
        let older = |sequence| Measurement {
            recipe: Recipe::LayerInNetwork1,
            ..measurement(sequence, relu(sequence))
        };
        (1..=20).for_each(|sequence| books.take(seconds(0), &older(sequence)));
        let fit = books.next_fit(seconds(0)).expect("twenty layers");
        let expected = (20, Recipe::LayerInNetwork1);
        assert_eq!((fit.samples.len(), fit.origin.recipe), expected);
        books.fitted(seconds(0), (fit.key, fit.origin.recipe), 20, seconds(0));
        assert!(
            !books.is_measured(&platform(), &relu(3).hash()),
            "by today's recipe"
        );

        take(&mut books, seconds(0), 21, 30);
        assert_eq!(books.next_fit(seconds(9)), None, "nine of the newest");
        take(&mut books, seconds(0), 30, 31);
        let fit = books.next_fit(seconds(0)).expect("ten of the newest");
        assert_eq!((fit.samples.len(), fit.origin.recipe), (10, Recipe::LAYER));
        assert!(books.is_measured(&platform(), &relu(25).hash()));

        // Without its tenth layer the newest is too small again.
        books.retract(30);
        let fit = books.next_fit(seconds(9)).expect("the last model had it");
        assert_eq!((fit.samples.len(), fit.origin.recipe), expected);
    }

    #[test]
    fn a_retracted_measurement_is_no_sample_and_its_models_are_fitted_anew() {
        let mut books = Books::default();
        take(&mut books, seconds(0), 1, 11);
        let key = books.next_fit(seconds(0)).expect("ten layers").key;
        books.fitted(seconds(0), (key, Recipe::LAYER), 10, seconds(0));
        assert_eq!(books.next_fit(seconds(9)), None);
        books.retract(4);
        books.retract(4);
        let fit = books.next_fit(seconds(0)).expect("one is wrong");
        let layers: Vec<_> = fit.samples.iter().map(|sample| &sample.layer).collect();
        assert_eq!(layers.len(), 9);
        assert!(!layers.contains(&&relu(4)));
        assert!(!books.is_measured(&platform(), &relu(4).hash()), "anew");
        // While that fit was under way, another was retracted, and one came.
        books.retract(5);
        take(&mut books, seconds(0), 11, 12);
        books.fitted(seconds(0), (key, Recipe::LAYER), 9, seconds(0));
        let fit = books.next_fit(seconds(0)).expect("the last fit had it");
        assert_eq!(fit.samples.len(), 9);
        // Of a replica the others stay, and what was retracted before it came never is a sample.
        books.take(seconds(0), &measurement(12, relu(11)));
        books.retract(11);
        assert!(books.is_measured(&platform(), &relu(11).hash()));
        books.retract(13);
        books.take(seconds(0), &measurement(13, relu(13)));
        assert!(!books.is_measured(&platform(), &relu(13).hash()));
        // Of nothing no model is fitted.
        (1..=12).for_each(|sequence| books.retract(sequence));
        assert_eq!(books.next_fit(seconds(99)), None);
    }

    #[test]
    fn power_makes_models_of_power_and_energy() {
        let mut books = Books::default();
        for sequence in 1..=5 {
            let mut measurement = measurement(sequence, relu(sequence));
            let power = wattfarm_cost::measurement::Power {
                mean_w: 50.0,
                idle_w: None,
                sensor: "test".to_owned(),
                window_s: 1.0,
            };
            measurement.reading.power = Some(power);
            books.take(seconds(0), &measurement);
        }
        let mut fitted = Vec::new();
        while let Some(fit) = books.next_fit(seconds(0)) {
            fitted.push((fit.key.target, fit.samples[0].value));
            books.fitted(
                seconds(0),
                (fit.key, fit.origin.recipe),
                fit.samples.len(),
                seconds(0),
            );
        }
        let runtime = measurement(1, relu(1)).reading.runtime.median_ms;
        let expected = [
            (Target::RuntimeMs, runtime),
            (Target::PowerW, 50.0),
            (Target::EnergyMj, 50.0 * runtime),
        ];
        assert_eq!(fitted, expected);
    }
}

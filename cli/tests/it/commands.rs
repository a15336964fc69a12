//! The commands against a farm that lives: a coordinator, an agent and a trainer.

use std::fs;

use crate::farm::{Farm, Process, alone, wait_for};

/// From the token to the files, with the coordinator restarted while a command follows a campaign.
#[test]
fn a_farm_by_hand() {
    const JOBS: usize = 60;
    let _alone = alone();
    let mut farm = Farm::new();
    let mut coordinator = farm.coordinator();
    let token = farm.text(&["token", "create", "--note", "test"]);
    let _agent = farm.agent(token.trim());
    let _trainer = farm.trainer();
    let platform = wait_for("the platform", || {
        let platforms = farm.json(&["platforms"]);
        platforms[0]["slug"].as_str().map(str::to_owned)
    });
    let platform = &*platform;
    let agents = farm.json(&["agents"]);
    assert_eq!(agents.as_array().expect("an array").len(), 1);
    assert_eq!(agents[0]["platform"], platform);
    assert_eq!(agents[0]["connected"], true);

    let budget = JOBS.to_string();
    let request = farm.command(&[
        "request",
        "--platform",
        platform,
        "--kinds",
        "relu,softmax",
        "--budget",
        &budget,
        "--watch",
    ]);
    let mut request = Process::start(request, &farm.path("request.log"));
    let done = |farm: &Farm| {
        let jobs = farm.json(&["jobs", "--state", "done"]);
        jobs.as_array().expect("an array").len()
    };
    wait_for("measurements", || (done(&farm) >= 5).then_some(()));
    coordinator.signal("TERM");
    assert!(coordinator.wait().success(), "{}", coordinator.said());
    let away = || request.said().contains("the coordinator is away");
    wait_for("the command to notice", || away().then_some(()));
    let _coordinator = farm.coordinator();
    assert!(request.wait().success(), "{}", request.said());
    let printed = request.printed();
    let last = printed.lines().last().expect("lines");
    assert!(last.contains("exhausted"), "{printed}");

    let campaigns = farm.json(&["campaigns"]);
    assert_eq!(campaigns[0]["state"], "exhausted");
    assert_eq!(campaigns[0]["jobs_done"], JOBS);
    let first = farm.json(&["jobs", "--state", "done", "--limit", "3"]);
    assert_eq!(first.as_array().expect("an array").len(), 3);
    assert!(first[0]["subject"].as_str().expect("a text").contains('('));

    wait_for("models of both kinds", || {
        farm.text(&["fetch", "--platform", platform, "-o", "models.json"]);
        let text = fs::read(farm.path("models.json")).expect("written");
        let models: wattfarm_cost::ModelSet = serde_json::from_slice(&text).expect("models");
        (models.models.len() == 2).then_some(())
    });
    farm.text(&["fetch", "--platform", platform, "--shelf", "platforms"]);
    let offline = farm.json(&["predict", "squeezenet1_1", "--models", "models.json"]);
    let named = [
        "--format",
        "json",
        "predict",
        "squeezenet1_1",
        "--models",
        platform,
    ];
    let mut named = farm.command(&named);
    let named = named.env("WATTFARM_PLATFORMS", "platforms").output();
    let named = named.expect("the command runs").stdout;
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&named).expect("JSON"),
        offline
    );
    assert!(offline["total"]["runtime_ms"].as_f64().expect("a number") > 0.0);
    let warnings = offline["warnings"].to_string();
    assert!(warnings.contains("no model for conv2d"), "{warnings}");

    let measure = [
        "measure",
        "squeezenet1_1",
        "--platform",
        platform,
        "--batch",
        "1",
    ];
    let measured = farm.json(&measure);
    assert_eq!(measured[0]["network"], "squeezenet1_1");
    assert!(measured[0]["runtime_ms"].as_f64().expect("a number") > 0.0);
    assert!(measured[0]["power_w"].is_null(), "there is no meter");
    assert_eq!(
        farm.json(&[&measure[..], &["--replicas", "0"]].concat()),
        measured
    );
    let many = [&measure[..], &["--replicas", "102"]].concat();
    let refused = farm.command(&many).output().expect("the command runs");
    assert_eq!(refused.status.code(), Some(2));

    // Measured whole already: only its layers are still to be.
    let validate = [
        "validate",
        "squeezenet1_1",
        "--platform",
        platform,
        "--batch",
        "1",
    ];
    let validated = farm.json(&validate);
    let runtime = &validated["networks"][0]["runtime_ms"];
    assert!(
        runtime["predicted"].is_null(),
        "few of its kinds have a model"
    );
    assert_eq!(runtime["measured"], measured[0]["runtime_ms"]);
    let figure = |name: &str| runtime[name].as_f64().expect("measured");
    let ratio = figure("layers") / figure("measured");
    assert!(
        (0.5..2.0).contains(&ratio),
        "layers are {ratio} of the network"
    );
    assert_eq!(validated["kinds"][0]["kind"], "relu");
    assert!(validated["accuracy_percent"]["power"].is_null());
    let page = farm.text(&[&validate[..], &["--format", "html"]].concat());
    assert!(page.contains("Layers of squeezenet1_1 at batch 1"));

    farm.text(&["export", "-o", "csv"]);
    let rows = |kind: &str| {
        let text = fs::read_to_string(farm.path(&format!("csv/{kind}.csv"))).expect("a file");
        text.lines().count() - 1
    };
    // The campaign's, and those of the network's own layers that were not among them.
    assert!(rows("relu") + rows("softmax") >= JOBS);
    assert!(rows("conv2d") > 10);
    assert_eq!(rows("networks"), 1);

    // Any version can be fitted again from the measurements that it names, and a figure that was changed is found.
    let rebuilt = farm.rebuild("models.json");
    let told = String::from_utf8_lossy(&rebuilt.stdout);
    let said = String::from_utf8_lossy(&rebuilt.stderr);
    assert!(rebuilt.status.success(), "{told}{said}");
    assert_eq!(
        told.matches("the same to the last bit").count(),
        2,
        "{told}"
    );
    let text = fs::read_to_string(farm.path("models.json")).expect("written");
    let mut forged: wattfarm_cost::ModelSet = serde_json::from_str(&text).expect("models");
    forged.models[0].intercept += 1e-9;
    let forged = serde_json::to_string(&forged).expect("plain data");
    fs::write(farm.path("forged.json"), forged).expect("a file");
    let rebuilt = farm.rebuild("forged.json");
    let told = String::from_utf8_lossy(&rebuilt.stdout);
    assert_eq!(rebuilt.status.code(), Some(1));
    assert!(told.contains("differs, first in intercept"), "{told}");

    let nowhere = farm.command(&["request", "--platform", "nowhere"]).output();
    assert_eq!(nowhere.expect("the command runs").status.code(), Some(4));
}

//! Which shard a call is for: a table, by what the call's message says. It is pure.

/// Where a call goes. Paths are the numbers of fields, from the message's own inwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// The home: tokens and keys are there.
    Home,
    /// The shard of the agent that calls.
    Caller,
    /// The token's part goes home, the agent's where its platform has its place.
    Enroll,
    /// The shard of the platform that the message names.
    Platform(&'static [u32]),
    /// Whichever shard knows the id in the message.
    Known(&'static [u32]),
    /// Every shard, whose lists make one.
    Lists,
    /// Every shard, one after the other, as many jobs as are asked for; or the named platform's.
    Jobs,
    /// Every shard, one after the other; or the named platform's.
    Export,
    /// Every shard's news, as they come.
    Measurements,
    /// Every shard's newest list, as one.
    Campaigns,
    /// The shard of all the platforms that the message names.
    Platforms(&'static [u32]),
    /// The shard that gave the numbers in the message.
    Numbers(&'static [u32]),
    /// Every shard's dump, as one.
    Backup,
}

/// The table. `None` for a call that the protocol doesn't have.
pub(super) fn rule(path: &str) -> Option<Rule> {
    Some(match path.strip_prefix("/wattfarm.v1.")? {
        "AgentService/Enroll" => Rule::Enroll,
        "AgentService/LeaseJobs"
        | "AgentService/RenewLeases"
        | "AgentService/ReportResults"
        | "AgentService/ReportCanary"
        | "AgentService/RotateCredential" => Rule::Caller,
        "ModelService/ListPlatforms" | "FarmService/ListAgents" | "FarmService/ListCampaigns" => {
            Rule::Lists
        }
        "ModelService/RequestModels" => Rule::Platform(&[1, 2]),
        "ModelService/GetModels"
        | "ModelService/WatchModels"
        | "ModelService/Predict"
        | "ModelService/Measure" => Rule::Platform(&[1]),
        "ModelService/WatchCampaign"
        | "TrainerService/ProposeLayers"
        | "FarmService/CancelCampaign"
        | "FarmService/PauseCampaign"
        | "FarmService/ExtendCampaign"
        | "FarmService/DrainAgent"
        | "FarmService/RevokeAgent" => Rule::Known(&[1]),
        "TrainerService/WatchMeasurements" => Rule::Measurements,
        "TrainerService/WatchCampaigns" => Rule::Campaigns,
        "TrainerService/PublishModels" => Rule::Platforms(&[1, 1]),
        "FarmService/CreateToken"
        | "FarmService/CreateKey"
        | "FarmService/ListKeys"
        | "FarmService/RevokeKey" => Rule::Home,
        "FarmService/ListJobs" => Rule::Jobs,
        "FarmService/ExportMeasurements" => Rule::Export,
        "FarmService/RetractMeasurements" => Rule::Numbers(&[1]),
        "FarmService/Backup" => Rule::Backup,
        _ => return None,
    })
}

/// Whether a call is answered by a stream.
pub(super) fn is_stream(path: &str) -> bool {
    matches!(
        path.rsplit('/').next(),
        Some(
            "WatchCampaign"
                | "GetModels"
                | "WatchModels"
                | "Predict"
                | "Measure"
                | "WatchMeasurements"
                | "WatchCampaigns"
                | "ListJobs"
                | "ExportMeasurements"
                | "Backup"
        )
    )
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;
    use wattfarm_proto::v1;

    use super::*;

    #[test]
    fn every_call_of_the_protocol_has_its_rule() {
        let descriptors = FileDescriptorSet::decode(v1::DESCRIPTORS).expect("ours");
        let services = descriptors.file.iter().flat_map(|file| &file.service);
        let mut calls = 0;
        for service in services {
            for method in &service.method {
                let path = format!("/wattfarm.v1.{}/{}", service.name(), method.name());
                assert!(rule(&path).is_some(), "{path}");
                assert_eq!(is_stream(&path), method.server_streaming(), "{path}");
                calls += 1;
            }
        }
        assert!(calls > 30, "{calls}");
        assert_eq!(rule("/wattfarm.v1.FarmService/Nothing"), None);
    }
}

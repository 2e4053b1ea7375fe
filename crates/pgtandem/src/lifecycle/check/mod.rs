//! `check`: every prerequisite on every node, all faults in one report, each with what mends it.

mod across;
mod columns;
mod direct;
mod mapping;
mod merging;
mod node;
mod tables;

use super::{LifecycleError, NodeSurvey, OpenNode, Report, open_nodes, survey};
use crate::config::{Config, Merge};
use crate::sql::Naming;
use futures::future::join_all;

pub use columns::{Fit, fit};

pub(super) use across::judge_table as judge_pair;
pub(super) use tables::judge_shape_alone as judge_single;

/// Connects to every node and looks. What is wrong, a node that cannot be reached included, is in the report.
pub async fn check(config: &Config) -> Report {
    check_and_survey(config).await.0
}

/// With what was read of the nodes that could be reached: all of them, if there is no fault. And the sessions on these.
pub(super) async fn check_and_survey(config: &Config) -> (Report, Vec<NodeSurvey>, Vec<OpenNode>) {
    let mut report = Report::default();
    let mut open = Vec::new();
    for (node, opened) in config.nodes.iter().zip(open_nodes(config).await.nodes) {
        match opened {
            Ok(opened) => open.push(opened),
            Err(error) => unreachable_node(&mut report, &node.name, &error),
        }
    }
    let surveys = survey_all(&open, |node| config.namings(node)).await;
    let mut read = Vec::new();
    for (node, survey) in open.iter().zip(surveys) {
        match survey {
            Ok(mut survey) => {
                if config.tables.iter().any(|table| table.merge == Merge::Newest) {
                    // Only for a warning.
                    survey.time_zone = node.time_zone().await.ok();
                }
                direct::try_peer(&mut report, config, node, &survey).await;
                read.push(survey);
            }
            Err(error) => unreachable_node(&mut report, &node.name, &error),
        }
    }
    report.findings.extend(judge(config, &read).findings);
    report.sort();
    (report, read, open)
}

/// `namings`: what a node calls the tables that are asked for.
pub(super) async fn survey_all(
    nodes: &[OpenNode],
    namings: impl Fn(&str) -> Vec<Naming>,
) -> Vec<Result<NodeSurvey, LifecycleError>> {
    let surveys = nodes.iter().map(|node| {
        let wanted = namings(&node.name);
        async move { survey(node.client(), &node.name, &wanted).await }
    });
    join_all(surveys).await
}

fn unreachable_node(report: &mut Report, node: &str, error: &LifecycleError) {
    // The node is named beside the finding already.
    let finding = report.fault("connection", error.without_node(node)).on(node);
    if let Some(remedy) = error.remedy() {
        finding.mend(remedy);
    }
}

/// Judges what was read, without asking anything more. Nodes that could not be reached are missing in `surveys`.
pub fn judge(config: &Config, surveys: &[NodeSurvey]) -> Report {
    let mut report = Report::default();
    for survey in surveys {
        let wanted = config.node(&survey.name).and_then(|node| node.capture);
        let capture = survey.capture(config);
        node::judge(&mut report, survey, capture, wanted);
        for table in &config.tables {
            tables::judge(&mut report, survey, table, capture);
            direct::sync_triggers(&mut report, config, survey, table);
        }
        direct::judge(&mut report, config, survey);
        mapping::judge(&mut report, config, survey);
    }
    direct::mirrors(&mut report, config, surveys);
    across::judge_nodes(&mut report, surveys);
    for table in &config.tables {
        across::judge_table(&mut report, surveys, &table.name);
        mapping::judge_columns(&mut report, surveys, table);
        merging::judge(&mut report, surveys, table);
    }
    merging::judge_children(&mut report, surveys, config);
    report.sort();
    report
}

//! Who the nodes of the link are: number, incarnation, slot.

use super::{LifecycleError, NodeSurvey};
use crate::config::Config;
use crate::link::{Peer, slot_name};
use uuid::Uuid;

/// A node as it is, or will be, known to all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub number: i16,
    pub name: String,
    pub incarnation: Uuid,
    /// No node knows of it yet: number and incarnation are only proposed.
    pub is_new: bool,
    pub is_installed: bool,
}

impl Identity {
    pub fn slot(&self) -> String {
        slot_name(&self.name, self.incarnation)
    }

    pub fn peer(&self) -> Peer {
        Peer { number: self.number, name: self.name.clone(), incarnation: self.incarnation }
    }
}

/// One identity per node of the configuration, in its order. What any node has written down already holds: an
/// interrupted `up` may have told the first node who the second will be.
pub fn identities(config: &Config, surveys: &[NodeSurvey]) -> Result<Vec<Identity>, LifecycleError> {
    let links = || surveys.iter().filter_map(|survey| survey.link.as_ref());
    for link in links() {
        if let Some(peer) = link.peers.iter().find(|peer| config.node(&peer.name).is_none()) {
            return Err(LifecycleError::refused(
                format!("the node {} is in the link but not in {}", peer.name, config.file.display()),
                format!("write it there again, or take it out of the link: `pgtandem down --node {}`", peer.name),
            ));
        }
    }
    let mut next = links().map(|link| link.last_number).max().unwrap_or(-1) + 1;
    let mut identities = Vec::new();
    for survey in surveys {
        let installed = survey.link.as_ref().map(|link| Identity {
            number: link.node.number,
            name: link.node.name.clone(),
            incarnation: link.node.incarnation,
            is_new: false,
            is_installed: true,
        });
        let announced = || {
            let peer = links().flat_map(|link| &link.peers).find(|peer| peer.name == survey.name)?;
            Some(Identity {
                number: peer.number,
                name: peer.name.clone(),
                incarnation: peer.incarnation,
                is_new: false,
                is_installed: false,
            })
        };
        identities.push(installed.or_else(announced).unwrap_or_else(|| {
            next += 1;
            Identity {
                number: next - 1,
                name: survey.name.clone(),
                incarnation: Uuid::new_v4(),
                is_new: true,
                is_installed: false,
            }
        }));
    }
    Ok(identities)
}

/// How many residues of ids there are to be.
pub fn slot_count(config: &Config, surveys: &[NodeSurvey], identities: &[Identity]) -> Result<i16, LifecycleError> {
    let wanted = i16::try_from(config.hub.id_slots).unwrap_or(i16::MAX);
    let present = surveys.iter().filter_map(|survey| Some(survey.link.as_ref()?.node.slot_count)).max();
    // Fewer than there were would let two nodes meet.
    let count = present.unwrap_or(0).max(wanted);
    match identities.iter().find(|identity| identity.number >= count) {
        None => Ok(count),
        Some(identity) => Err(LifecycleError::refused(
            format!(
                "the node {} would be the {}th this link ever had, but ids are kept apart for {count} only",
                identity.name,
                identity.number + 1
            ),
            format!("write id_slots = {} into [hub] of {}", count * 2, config.file.display()),
        )),
    }
}

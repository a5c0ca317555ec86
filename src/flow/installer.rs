//! What a plan of rancher-system-agent would install here, and whether it may run again. Pure (reference `rke2-and-rancher.md` §4.1,
//! §5.4): after each start it applies its plan once more, and the installer in that unpacks its RKE2 over whatever is in place.

use serde::Deserialize;

use crate::flow::version::Rke2Version;

/// Image of the installer, whatever registry it comes from.
const IMAGE: &str = "system-agent-installer-rke2";

/// What a plan orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ordered {
    /// No RKE2.
    Nothing,
    /// This one.
    Version(Rke2Version),
    /// One whose version cannot be read from its image, which is this.
    Unreadable(String),
}

#[derive(Deserialize)]
struct Plan {
    #[serde(default)]
    instructions: Vec<Instruction>,
}

#[derive(Deserialize)]
struct Instruction {
    #[serde(default)]
    image: String,
}

impl Ordered {
    /// Reads the JSON of a machine plan.
    ///
    /// # Errors
    /// It is none.
    pub fn of(plan: &[u8]) -> Result<Self, serde_json::Error> {
        let plan: Plan = serde_json::from_slice(plan)?;
        let mut images = plan.instructions.into_iter().map(|instruction| instruction.image);
        let found = images.find_map(|image| Some((tag_of(&image)?.replacen("-rke2r", "+rke2r", 1), image)));
        Ok(match found {
            None => Self::Nothing,
            Some((tag, image)) => tag.parse().map_or(Self::Unreadable(image), Self::Version),
        })
    }

    /// Why it must not be applied while `in_place` is what this machine runs; none when it may.
    #[must_use]
    pub fn objection(&self, in_place: &Rke2Version) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Version(version) if version == in_place => None,
            Self::Version(version) => {
                Some(format!("its plan orders RKE2 {version}, and {in_place} is in place"))
            }
            Self::Unreadable(image) => Some(format!("its plan orders an RKE2 of unknown version, {image}")),
        }
    }
}

/// The tag of an installer's image; none for other images, empty for one without a tag.
fn tag_of(image: &str) -> Option<&str> {
    let last = image.rsplit('/').next().unwrap_or(image);
    let (name, tag) = last.split_once([':', '@']).unwrap_or((last, ""));
    (name == IMAGE).then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_version_in_place_may_be_applied_again() {
        let table = [
            (
                r#"{"instructions":[{"name":"install","image":"rancher/system-agent-installer-rke2:v1.35.6-rke2r1","command":"sh"}]}"#,
                None,
            ),
            (r#"{"instructions":[{"image":"reg:5000/x/system-agent-installer-rke2:v1.35.6-rke2r1"}]}"#, None),
            (r#"{"files":[],"instructions":[{"image":"rancher/other:v1"}]}"#, None),
            ("{}", None),
            (
                r#"{"instructions":[{"image":"rancher/system-agent-installer-rke2:v1.34.2-rke2r1"}]}"#,
                Some("orders RKE2 v1.34.2+rke2r1"),
            ),
            (
                r#"{"instructions":[{},{"image":"rancher/system-agent-installer-rke2:v1.35.6-rc1-rke2r1"}]}"#,
                Some("v1.35.6-rc1+rke2r1"),
            ),
            (r#"{"instructions":[{"image":"system-agent-installer-rke2"}]}"#, Some("unknown version")),
            (
                r#"{"instructions":[{"image":"rancher/system-agent-installer-rke2@sha256:ab"}]}"#,
                Some("unknown version"),
            ),
        ];
        let in_place = "v1.35.6+rke2r1".parse().unwrap();
        for (plan, expected) in table {
            let said = Ordered::of(plan.as_bytes()).unwrap().objection(&in_place);
            match expected {
                None => assert_eq!(said, None, "{plan}"),
                Some(words) => {
                    assert!(said.as_deref().unwrap_or_default().contains(words), "{plan}: {said:?}");
                }
            }
        }
        assert!(Ordered::of(b"").is_err());
    }
}

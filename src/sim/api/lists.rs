//! Which lists of Kubernetes' own kinds are sets of named things, and by which field.

/// The field that tells the items of a list apart: empty for sets of plain values, none for lists that are one value.
/// `path` is the list's path without indices.
pub(super) fn merge_key(path: &str) -> Option<&'static str> {
    let (parent, list) = path.rsplit_once('/')?;
    Some(match (parent, list) {
        ("/metadata", "finalizers") => "",
        ("/metadata", "ownerReferences") => "uid",
        ("/status", "conditions" | "addresses") => "type",
        ("/spec", "taints") => "key",
        (
            _,
            "containers" | "initContainers" | "ephemeralContainers" | "volumes" | "env" | "imagePullSecrets",
        ) => "name",
        (_, "volumeMounts") => "mountPath",
        (_, "hostAliases") => "ip",
        (_, "topologySpreadConstraints") => "topologyKey",
        ("/spec", "ports") => "port",
        (parent, "ports") if parent.ends_with("ontainers") => "containerPort",
        _ => return None,
    })
}

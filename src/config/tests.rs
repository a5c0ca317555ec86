//! Tables: who wins, what the defaults are, which values are refused and how that is said.

use super::*;

type Env = &'static [(&'static str, &'static str)];

fn merge(flags: FlagConfig, env: Env, file: &str) -> Result<Config, ConfigError> {
    let lookup = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Config::merge(flags, lookup, FileConfig::parse(Path::new("/etc/upgrade-agent/config.toml"), file)?)
}

fn flags(args: &[&str]) -> FlagConfig {
    use clap::{Args as _, FromArgMatches as _};
    let command = FlagConfig::augment_args(clap::Command::new("test").no_binary_name(true));
    FlagConfig::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap()
}

#[test]
fn defaults_are_those_of_the_machine_itself() {
    let config = merge(FlagConfig::default(), &[], "").unwrap();
    assert_eq!(
        config,
        Config {
            node_name: None,
            kubeconfig: None,
            host_root: "/".into(),
            system_bus: None,
            state_dir: "/var/lib/rancher/upgrade-agent".into(),
            local_address: "127.0.0.1".parse().unwrap(),
            soak: Duration::from_secs(90),
            namespace: "harvester-system".into(),
        }
    );
}

#[test]
fn a_pod_finds_bus_state_and_the_files_paths_under_the_host_root() {
    let env: Env = &[("UPGRADE_AGENT_HOST_ROOT", "/host"), ("NODE_NAME", "node1")];
    let config = merge(FlagConfig::default(), env, "kubeconfig = '/etc/rancher/rke2/rke2.yaml'").unwrap();
    assert_eq!(config.system_bus.unwrap(), Path::new("/host/run/dbus/system_bus_socket"));
    assert_eq!(config.state_dir, Path::new("/host/var/lib/rancher/upgrade-agent"));
    assert_eq!(config.kubeconfig.unwrap(), Path::new("/host/etc/rancher/rke2/rke2.yaml"));
    assert_eq!(config.node_name.unwrap(), "node1");
}

#[test]
fn flags_win_over_environment_over_file_over_default() {
    let file = "node_name = 'file'\nkubeconfig = '/file'\nsystem_bus = '/file'\nstate_dir = '/file'\n\
                local_address = '10.0.0.3'\nnamespace = 'file'\n";
    let env: Env = &[
        ("NODE_NAME", "env"),
        ("KUBECONFIG", "/env"),
        ("UPGRADE_AGENT_SYSTEM_BUS", "/env"),
        ("UPGRADE_AGENT_STATE_DIR", "/env"),
        ("UPGRADE_AGENT_LOCAL_ADDRESS", "10.0.0.2"),
    ];
    let args = flags(&[
        "--node-name=flag",
        "--kubeconfig=/flag",
        "--system-bus=/flag",
        "--state-dir=/flag",
        "--local-address=10.0.0.1",
        "--namespace=flag",
    ]);
    let none = FlagConfig::default;
    let cases: [(FlagConfig, Env, &str, &str, &str); 4] = [
        (args, env, "flag", "10.0.0.1", "flag"),
        (none(), env, "env", "10.0.0.2", "file"),
        (none(), &[], "file", "10.0.0.3", "file"),
        (none(), &[("NODE_NAME", ""), ("KUBECONFIG", "")], "file", "10.0.0.3", "file"),
    ];
    for (flags, env, winner, address, namespace) in cases {
        let config = merge(flags, env, file).unwrap();
        let path = PathBuf::from(format!("/{winner}"));
        assert_eq!(config.node_name.as_deref(), Some(winner));
        assert_eq!((config.kubeconfig.as_ref(), config.system_bus.as_ref()), (Some(&path), Some(&path)));
        assert_eq!(config.state_dir, path);
        assert_eq!(
            (config.local_address.to_string().as_str(), config.namespace.as_str()),
            (address, namespace)
        );
    }
    let env: Env = &[("UPGRADE_AGENT_HOST_ROOT", "/env")];
    assert_eq!(merge(flags(&["--host-root", "/flag"]), env, "").unwrap().host_root, Path::new("/flag"));
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_place_and_cure() {
    let cases: [(&[&str], Env, &str, &str); 11] = [
        (&["--node-name", "Node_1"], &[], "", "`--node-name` is `Node_1`; use the node's name as"),
        (&["--node-name", ""], &[], "", "`--node-name` is ``"),
        (&[], &[("NODE_NAME", "-a")], "", "`NODE_NAME` is `-a`"),
        (&["--host-root", "host"], &[], "", "`--host-root` is `host`; use an absolute path"),
        (&[], &[("UPGRADE_AGENT_STATE_DIR", "state")], "", "`UPGRADE_AGENT_STATE_DIR` is `state`"),
        (&[], &[("KUBECONFIG", "/a:/b")], "", "`KUBECONFIG` is `/a:/b`; name one file"),
        (&["--local-address", "0.0.0.0"], &[], "", "`--local-address` is `0.0.0.0`; use one IP address"),
        (&[], &[], "local_address = 'here'", "`local_address in /etc/upgrade-agent/config.toml` is `here`"),
        (&["--namespace", "a.b"], &[], "", "`--namespace` is `a.b`; use a namespace's name"),
        (
            &[],
            &[],
            "# note\nnodename = 'a'",
            "`/etc/upgrade-agent/config.toml`, line 2, key `nodename`: unknown field `nodename`, expected one of",
        ),
        (
            &[],
            &[],
            "namespace = 3",
            "line 1, key `namespace`: invalid type: integer `3`, expected a string; correct",
        ),
    ];
    for (args, env, file, expected) in cases {
        let error = merge(flags(args), env, file).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\nlacks\n{expected}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "puts the files there that load reads")]
fn a_missing_file_is_fine_and_an_unreadable_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let load = || Config::load(FlagConfig { host_root: Some(root.into()), ..FlagConfig::default() });
    assert_eq!(load().unwrap().namespace, "harvester-system");

    std::fs::create_dir_all(root.join("etc/upgrade-agent")).unwrap();
    std::fs::write(root.join(FILE), "namespace = 'elsewhere'\n").unwrap();
    assert_eq!(load().unwrap().namespace, "elsewhere");

    std::fs::remove_file(root.join(FILE)).unwrap();
    std::fs::create_dir(root.join(FILE)).unwrap();
    let error = load().unwrap_err();
    assert!(matches!(&error, ConfigError::Unreadable { path, .. } if *path == root.join(FILE)), "{error}");
    assert!(error.to_string().ends_with("make it a readable file, or remove it"), "{error}");
}

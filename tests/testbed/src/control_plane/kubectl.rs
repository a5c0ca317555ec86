//! What tests ask of a control plane through its own kubectl, always as the admin.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::ControlPlane;

impl ControlPlane {
    /// Applies a text of YAML documents, on the server's side.
    ///
    /// # Errors
    /// When kubectl fails: with what it said.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        use std::io::Write as _;
        let mut child = self
            .kubectl_command(&["apply", "--server-side", "--force-conflicts", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("kubectl has no standard input")?.write_all(yaml.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("kubectl apply failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Applies a file, or every YAML file of a directory, on the server's side.
    ///
    /// # Errors
    /// When kubectl fails: with what it said.
    pub fn apply_dir(&self, path: &Path) -> Result<()> {
        let file = path.display().to_string();
        self.run_kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &file]).map(drop)
    }

    /// Runs kubectl as the admin and returns its standard output.
    ///
    /// # Errors
    /// When it fails: with its standard error.
    pub fn run_kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl_command(arguments).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("kubectl {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.kubectl);
        command.arg("--kubeconfig").arg(self.admin_kubeconfig()).args(arguments);
        // Its cache of what the server offers belongs to this run: every server has the same well-known port.
        command.arg("--cache-dir").arg(self.dir.join("kubectl-cache"));
        command
    }
}

//! The test bed itself: every part comes up, works, and leaves nothing behind.
use std::time::Instant;
use testbed::control_plane::ControlPlane;
use testbed::places::RunDir;

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_serves_an_aggregated_api() {
    let run = RunDir::new().unwrap();
    let began = Instant::now();
    let plane = ControlPlane::start(run.path()).await.unwrap();
    eprintln!("control plane {:?}", began.elapsed());
    let crds = plane.install_crds().unwrap();
    eprintln!("crds {:?} {crds:?}", began.elapsed());
    let _api = testbed::virt_api::serve_aggregated(&plane, |request| async move {
        http::Response::new(bytes::Bytes::from(format!("{{\"path\":\"{}\"}}", request.uri().path())))
    }).await.unwrap();
    eprintln!("aggregated {:?}", began.elapsed());
    let path = "/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachines/vm1/start";
    let request = http::Request::put(path).body(b"{}".to_vec()).unwrap();
    let answer = plane.client().request_text(request).await.unwrap();
    assert!(answer.contains("vm1/start"), "{answer}");
}

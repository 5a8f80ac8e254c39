//! The manual, in chapters. Its front page is that of the [crate].
//!
//! The chapters are Markdown files beside this one. They exist for `rustdoc` alone: a build of the
//! library does not see them. Each example in them is a doc test.

// Links in the chapters are resolved here.
#[allow(unused_imports)]
use crate::*;

#[doc = include_str!("loop.md")]
pub mod the_loop {}

#[doc = include_str!("events.md")]
pub mod events {}

#[doc = include_str!("emitting.md")]
pub mod emitting {}

#[doc = include_str!("topics.md")]
pub mod topics {}

#[doc = include_str!("requests.md")]
pub mod requests {}

#[doc = include_str!("time_and_threads.md")]
pub mod time_and_threads {}

#[doc = include_str!("all_cores.md")]
#[doc = ""]
#[cfg_attr(
    feature = "testing",
    doc = "[`Harness`]: crate::testing::Harness
[`LoopsHarness`]: crate::testing::LoopsHarness
[`LoopsHarness::on`]: crate::testing::LoopsHarness::on
[`Order`]: crate::testing::Order
[`Order::Shuffled`]: crate::testing::Order::Shuffled
[connect_to]: crate::testing::LoopsHarness::connect_to
[harness_handle]: crate::testing::LoopsHarness::handle
"
)]
#[cfg_attr(
    not(feature = "testing"),
    doc = "[`Harness`]: crate::manual::testing
[`LoopsHarness`]: crate::manual::testing
[`LoopsHarness::on`]: crate::manual::testing
[`Order`]: crate::manual::testing
[`Order::Shuffled`]: crate::manual::testing
[connect_to]: crate::manual::testing
[harness_handle]: crate::manual::testing
"
)]
pub mod all_cores {}

#[doc = include_str!("many_machines.md")]
#[doc = ""]
#[cfg_attr(
    all(feature = "redis", feature = "testing"),
    doc = "[BusHarness]: crate::testing::BusHarness"
)]
#[cfg_attr(
    not(all(feature = "redis", feature = "testing")),
    doc = "[BusHarness]: crate::manual::many_machines"
)]
#[cfg_attr(
    feature = "redis",
    doc = "[`Bus`]: crate::Bus
[prefix]: crate::Bus::prefix
[outbox_bytes]: crate::Bus::outbox_bytes
[ready_while_down]: crate::Bus::ready_while_down
[`Server::bus`]: crate::Server::bus
[`Loops::bus`]: crate::Loops::bus
[`BusError`]: crate::BusError
[`BusFailure`]: crate::BusFailure
[`BusStats`]: crate::BusStats
[stats_bus]: crate::Stats::bus
[unreadable]: crate::BusStats::unreadable
[Up]: crate::BusEvent::Up
[Down]: crate::BusEvent::Down
[NodeGone]: crate::BusEvent::NodeGone
[NotResolved]: crate::BusFailure::NotResolved
[Unreachable]: crate::BusFailure::Unreachable
[ConnectTimeout]: crate::BusFailure::ConnectTimeout
[Broken]: crate::BusFailure::Broken
[Closed]: crate::BusFailure::Closed
[CutForSlowness]: crate::BusFailure::CutForSlowness
[Silent]: crate::BusFailure::Silent
[Unanswered]: crate::BusFailure::Unanswered
[OldServer]: crate::BusFailure::OldServer
[WrongPassword]: crate::BusFailure::WrongPassword
[PasswordMissing]: crate::BusFailure::PasswordMissing
[NoPermission]: crate::BusFailure::NoPermission
[Loading]: crate::BusFailure::Loading
[Replica]: crate::BusFailure::Replica
[OutOfMemory]: crate::BusFailure::OutOfMemory
[Cluster]: crate::BusFailure::Cluster
[Sentinel]: crate::BusFailure::Sentinel
[NoSuchDatabase]: crate::BusFailure::NoSuchDatabase
[TooManyClients]: crate::BusFailure::TooManyClients
[ProtectedMode]: crate::BusFailure::ProtectedMode
[Busy]: crate::BusFailure::Busy
[Refused]: crate::BusFailure::Refused
[ProbeLost]: crate::BusFailure::ProbeLost
[SubscriptionsLost]: crate::BusFailure::SubscriptionsLost
[Nonsense]: crate::BusFailure::Nonsense
[LoopFailed]: crate::BusFailure::LoopFailed
[Unexpected]: crate::BusFailure::Unexpected
"
)]
#[cfg_attr(
    not(feature = "redis"),
    doc = "[`Bus`]: crate::manual::many_machines
[prefix]: crate::manual::many_machines
[outbox_bytes]: crate::manual::many_machines
[ready_while_down]: crate::manual::many_machines
[`Server::bus`]: crate::manual::many_machines
[`Loops::bus`]: crate::manual::many_machines
[`BusError`]: crate::manual::many_machines
[`BusFailure`]: crate::manual::many_machines
[`BusStats`]: crate::manual::many_machines
[stats_bus]: crate::manual::many_machines
[unreadable]: crate::manual::many_machines
[Up]: crate::manual::many_machines
[Down]: crate::manual::many_machines
[NodeGone]: crate::manual::many_machines
[NotResolved]: crate::manual::many_machines
[Unreachable]: crate::manual::many_machines
[ConnectTimeout]: crate::manual::many_machines
[Broken]: crate::manual::many_machines
[Closed]: crate::manual::many_machines
[CutForSlowness]: crate::manual::many_machines
[Silent]: crate::manual::many_machines
[Unanswered]: crate::manual::many_machines
[OldServer]: crate::manual::many_machines
[WrongPassword]: crate::manual::many_machines
[PasswordMissing]: crate::manual::many_machines
[NoPermission]: crate::manual::many_machines
[Loading]: crate::manual::many_machines
[Replica]: crate::manual::many_machines
[OutOfMemory]: crate::manual::many_machines
[Cluster]: crate::manual::many_machines
[Sentinel]: crate::manual::many_machines
[NoSuchDatabase]: crate::manual::many_machines
[TooManyClients]: crate::manual::many_machines
[ProtectedMode]: crate::manual::many_machines
[Busy]: crate::manual::many_machines
[Refused]: crate::manual::many_machines
[ProbeLost]: crate::manual::many_machines
[SubscriptionsLost]: crate::manual::many_machines
[Nonsense]: crate::manual::many_machines
[LoopFailed]: crate::manual::many_machines
[Unexpected]: crate::manual::many_machines
"
)]
pub mod many_machines {}

// Without the feature, the links to what it brings lead to the chapter that says how to get it.
#[doc = include_str!("compression.md")]
#[doc = ""]
#[cfg_attr(feature = "deflate", doc = "[`Deflate`]: crate::Deflate")]
#[cfg_attr(not(feature = "deflate"), doc = "[`Deflate`]: crate::manual::compression")]
pub mod compression {}

#[doc = include_str!("tls.md")]
#[doc = ""]
#[cfg_attr(
    feature = "_tls",
    doc = "[`Tls`]: crate::Tls
[`Tls::pem`]: crate::Tls::pem
[`Tls::name`]: crate::Tls::name
[`Tls::replace`]: crate::Tls::replace
[`Tls::client_certificates`]: crate::Tls::client_certificates
[`Tls::key_log`]: crate::Tls::key_log
[`Pem`]: crate::Pem
[`TlsInfo`]: crate::TlsInfo
[`TlsFailure`]: crate::TlsFailure
[`Error::Tls`]: crate::Error::Tls
[`Stats::tls`]: crate::Stats::tls
[`Incoming::tls`]: crate::Incoming::tls
[`Socket::tls`]: crate::Socket::tls
[`Server::listen_tls`]: crate::Server::listen_tls
[`Server::listen_on_tls`]: crate::Server::listen_on_tls
[`Builder::handshake_time`]: crate::Builder::handshake_time
"
)]
#[cfg_attr(
    not(feature = "_tls"),
    doc = "[`Tls`]: crate::manual::tls
[`Tls::pem`]: crate::manual::tls
[`Tls::name`]: crate::manual::tls
[`Tls::replace`]: crate::manual::tls
[`Tls::client_certificates`]: crate::manual::tls
[`Tls::key_log`]: crate::manual::tls
[`Pem`]: crate::manual::tls
[`TlsInfo`]: crate::manual::tls
[`TlsFailure`]: crate::manual::tls
[`Error::Tls`]: crate::manual::tls
[`Stats::tls`]: crate::manual::tls
[`Incoming::tls`]: crate::manual::tls
[`Socket::tls`]: crate::manual::tls
[`Server::listen_tls`]: crate::manual::tls
[`Server::listen_on_tls`]: crate::manual::tls
[`Builder::handshake_time`]: crate::manual::tls
"
)]
pub mod tls {}

#[doc = include_str!("close_codes.md")]
#[doc = ""]
#[cfg_attr(feature = "_tls", doc = "[`Error::Tls`]: crate::Error::Tls")]
#[cfg_attr(not(feature = "_tls"), doc = "[`Error::Tls`]: crate::manual::tls")]
pub mod close_codes {}

#[doc = include_str!("closing.md")]
pub mod closing {}

#[doc = include_str!("limits.md")]
#[doc = ""]
#[cfg_attr(feature = "deflate", doc = "[`Deflate`]: crate::Deflate")]
#[cfg_attr(not(feature = "deflate"), doc = "[`Deflate`]: crate::manual::compression")]
pub mod limits {}

#[doc = include_str!("metrics.md")]
pub mod metrics {}

#[doc = include_str!("testing.md")]
#[doc = ""]
#[cfg_attr(
    feature = "testing",
    doc = "[`Harness`]: crate::testing::Harness
[`Upgrade`]: crate::testing::Upgrade
[`Faults`]: crate::testing::Faults
[`Harness::get`]: crate::testing::Harness::get
[`Harness::ask`]: crate::testing::Harness::ask
[`Harness::send`]: crate::testing::Harness::send
[`Harness::server`]: crate::testing::Harness::server
[`Harness::wait_for`]: crate::testing::Harness::wait_for
[`Harness::state`]: crate::testing::Harness::state
[`Harness::advance`]: crate::testing::Harness::advance
[`Harness::stop_reading`]: crate::testing::Harness::stop_reading
[`Harness::dial`]: crate::testing::Harness::dial
[`Harness::write`]: crate::testing::Harness::write
[`Harness::by_hand`]: crate::testing::Harness::by_hand
[`LoopsHarness`]: crate::testing::LoopsHarness
[`Order`]: crate::testing::Order
"
)]
#[cfg_attr(
    not(feature = "testing"),
    doc = "[`Harness`]: crate::manual::testing
[`Upgrade`]: crate::manual::testing
[`Faults`]: crate::manual::testing
[`Harness::get`]: crate::manual::testing
[`Harness::ask`]: crate::manual::testing
[`Harness::send`]: crate::manual::testing
[`Harness::server`]: crate::manual::testing
[`Harness::wait_for`]: crate::manual::testing
[`Harness::state`]: crate::manual::testing
[`Harness::advance`]: crate::manual::testing
[`Harness::stop_reading`]: crate::manual::testing
[`Harness::dial`]: crate::manual::testing
[`Harness::write`]: crate::manual::testing
[`Harness::by_hand`]: crate::manual::testing
[`LoopsHarness`]: crate::manual::testing
[`Order`]: crate::manual::testing
"
)]
pub mod testing {}

#[doc = include_str!("restarting.md")]
pub mod restarting {}

#[doc = include_str!("from_go.md")]
pub mod from_go {}

#[doc = include_str!("cookbook.md")]
pub mod cookbook {
    #[allow(unused_imports)]
    use super::*;

    #[doc = include_str!("cookbook/json.md")]
    pub mod json {}

    #[doc = include_str!("cookbook/login.md")]
    pub mod login {}

    #[doc = include_str!("cookbook/rooms.md")]
    pub mod rooms {}

    #[doc = include_str!("cookbook/request_response.md")]
    pub mod request_response {}

    #[doc = include_str!("cookbook/rate_limit.md")]
    pub mod rate_limit {}

    #[doc = include_str!("cookbook/history.md")]
    pub mod history {}

    #[doc = include_str!("cookbook/signals.md")]
    pub mod signals {}

    #[doc = include_str!("cookbook/restart.md")]
    pub mod restart {}

    #[doc = include_str!("cookbook/proxies.md")]
    pub mod proxies {}

    #[doc = include_str!("cookbook/certbot.md")]
    #[doc = ""]
    #[cfg_attr(
        feature = "_tls",
        doc = "[`Tls::replace`]: crate::Tls::replace
[`Tls::name`]: crate::Tls::name
"
    )]
    #[cfg_attr(
        not(feature = "_tls"),
        doc = "[`Tls::replace`]: crate::manual::tls
[`Tls::name`]: crate::manual::tls
"
    )]
    pub mod certbot {}

    #[doc = include_str!("cookbook/client_certificates.md")]
    #[doc = ""]
    #[cfg_attr(
        feature = "_tls",
        doc = "[`Tls::client_certificates`]: crate::Tls::client_certificates"
    )]
    #[cfg_attr(not(feature = "_tls"), doc = "[`Tls::client_certificates`]: crate::manual::tls")]
    pub mod client_certificates {}

    #[doc = include_str!("cookbook/systemd.md")]
    pub mod systemd {}

    #[doc = include_str!("cookbook/tests.md")]
    pub mod tests {}
}

package deliver

import (
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"sync/atomic"
	"time"

	"carom/schemas/clock"
	"carom/sender/backoff"
	"carom/sender/config"
	"carom/sender/queue"
	"carom/sender/smtpc"
	"carom/sender/throttle"
)

// way is what the configuration says about one queue, worked out once for each configuration. The arrays
// are by queue.Mode.
type way struct {
	*exit
	view      *view
	settings  config.Settings
	signer    *signer
	list      *backoff.List
	limits    [2]*throttle.QueueLimits
	policies  [2]queue.Policy
	waits     [2][]time.Duration // retry-after
	penalties []time.Duration    // of 4xx replies; nil for none
	dial      smtpc.Config       // without what differs from one target to the next
	transport [sha256.Size]byte  // stands for all of dial
	rollup    *config.Rollup     // whose queue this is; nil for a queue of its own

	paths   paths
	resting resting
	skips   skips
	hangups hangups
	leased  atomic.Bool  // the control loop had the say at the last permit
	surplus atomic.Int64 // when mail that a lease holds back was looked at last, in Unix nanoseconds
}

// mode returns the mode whose limits are in force: with backoff-authority loop those of normal mode
// as long as the loop's lease is fresh (design/control.md 5.5, rule 4).
func (w *way) mode(q *queue.Queue, now time.Time) queue.Mode {
	if q.Mode(now) == queue.Backoff && !w.loopRules() {
		return queue.Backoff
	}
	return queue.Normal
}

func (w *way) modeNow(q *queue.Queue) queue.Mode { return w.mode(q, clock.Now()) }

func (w *way) loopRules() bool {
	return w.settings.BackoffAuthority == config.AuthorityLoop && w.leased.Load()
}

func (a *Agent) way(q *queue.Queue) (*way, error) {
	v := a.view.Load()
	old, known := q.Memo.Load().(*way)
	if known && old.view == v {
		return old, nil
	}
	name := q.Name()
	vmta, ok := v.config.VMTA(name.VMTA)
	if !ok {
		return nil, errNoVMTA(name.VMTA)
	}
	settings := v.config.Domain(name.Domain, name.VMTA)
	s, err := v.signing.signer(vmta, settings.DKIM)
	if err != nil {
		return nil, err
	}
	w := &way{
		exit: v.vmtas[vmta.Name], view: v, settings: settings, signer: s, list: a.list(v, settings.SMTPPatternList),
		waits:     [2][]time.Duration{settings.RetryAfter, settings.BackoffRetryAfter},
		penalties: backoff.Penalties(settings.InitialPTS, settings.MaxPTS),
	}
	w.limits[queue.Normal], w.limits[queue.Backoff] = limitsOfQueue(v.config, name.Domain, name.VMTA, &settings)
	for mode := range w.policies {
		w.policies[mode] = policy(w, settings, w.limits[mode])
	}
	w.dial, w.transport = transport(settings)
	w.dial.Sessions = a.sessions
	w.rollup, _ = v.config.RollupNamed(name.Domain)
	if known {
		w.leased.Store(old.leased.Load())
	}
	q.Memo.Store(w)
	return w, nil
}

// maxSessions bounds the connections of a queue whose max-smtp-out is 0 for unlimited.
const maxSessions = 1000

// policy returns what the manager needs to know: max-smtp-out, or the adaptive ceiling above it,
// which the throttle then holds to the lease.
func policy(w *way, s config.Settings, l *throttle.QueueLimits) queue.Policy {
	most := int(max(l.Connections, l.AdaptiveConnections))
	if l.Connections == 0 {
		most = maxSessions
	}
	return queue.Policy{
		MaxSessions: most, Group: w.vmta.Name, GroupMax: w.vmta.MaxSMTPOut, Priority: s.QueuePriority,
		Interruptible:           s.AllowPriorityInterruption,
		InterruptibleInTransfer: s.AllowPriorityInterruption && s.AllowPriorityInterruptionDuringTransfer,
		RetryUponNewMail:        s.RetryUponNewMail,
	}
}

// transport returns how connections of a queue are opened, and a sum of all that makes a difference
// to what they are good for.
func transport(s config.Settings) (smtpc.Config, [sha256.Size]byte) {
	c := smtpc.Config{
		Timeouts: smtpc.Timeouts{
			Connect: s.ConnectTimeout, Greeting: s.SMTPGreetingTimeout, Block: s.DataSendTimeout,
			FinalDot: s.SMTPDataTerminationTimeout, Lines: s.SMTPMultipleLineResponseTimeout,
		},
		IgnorePipelining: s.IgnorePipelining, Ignore8BitMIME: s.Ignore8BitMIME, IgnoreChunking: s.IgnoreChunking, IgnoreDSN: s.IgnoreDSN,
		AllowPlaintextAuth: s.UseUnencryptedPlainAuth, PIXWorkaround: s.PIXBugWorkaround,
		Survive421: !s.SMTP421MeansMXUnavailable, FullHandshakes: !s.ReuseSSLSession,
	}
	if s.AuthUsername != "" && s.AuthPassword.Reveal() != "" { // PowerMTA needs both
		c.Credentials = smtpc.Credentials{Username: s.AuthUsername, Password: s.AuthPassword.Reveal()}
	}
	lowest, highest := tlsVersions(s)
	switch {
	case s.RequireStartTLS:
		c.TLS = smtpc.TLSRequired
	case s.UseStartTLS && highest != 0:
		c.TLS = smtpc.TLSOpportunistic
	}
	c.TLSConfig = &tls.Config{ //nolint:gosec // old versions and unverified peers where the operator allows them
		MinVersion: lowest, MaxVersion: highest, CipherSuites: s.SMTPTLSCiphers.IDs,
		// Without smtp-tls-ca-file TLS is for encryption, not for identity, required or not.
		RootCAs: s.SMTPTLSCAFile.Pool, InsecureSkipVerify: s.SMTPTLSCAFile.Pool == nil,
	}
	if cert := s.SMTPClientCertificate.Certificate; cert != nil {
		c.TLSConfig.Certificates = []tls.Certificate{*cert}
	}
	plain := c
	plain.TLSConfig = nil
	return c, sha256.Sum256(fmt.Appendf(nil, "%v|%q|%q|%d|%d|%v|%s|%s", plain, plain.Credentials.Username, plain.Credentials.Password,
		lowest, highest, s.SMTPTLSCiphers.IDs, s.SMTPTLSCAFile.Path, s.SMTPClientCertificate.Path))
}

// tlsVersions returns the lowest and the highest version that is allowed, 0 for none. Go offers all
// versions between two: where one in the middle is not allowed, neither are those below it.
func tlsVersions(s config.Settings) (lowest, highest uint16) {
	for _, v := range []struct {
		version uint16
		allowed bool
	}{{tls.VersionTLS13, s.TLSv13}, {tls.VersionTLS12, s.TLSv12}, {tls.VersionTLS11, s.TLSv11}, {tls.VersionTLS10, s.TLSv1}} {
		switch {
		case v.allowed && highest == 0:
			lowest, highest = v.version, v.version
		case v.allowed:
			lowest = v.version
		case highest != 0:
			return lowest, highest
		}
	}
	return lowest, highest
}

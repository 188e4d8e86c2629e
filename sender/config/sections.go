package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// RecordType is a kind of accounting record.
type RecordType string

// The kinds of accounting records.
const (
	Delivered      RecordType = "d"
	Bounced        RecordType = "b"
	Transient      RecordType = "t"
	TransientQueue RecordType = "tq"
	Received       RecordType = "r"
	RemoteBounce   RecordType = "rb"
	RemoteStatus   RecordType = "rs"
	FeedbackLoop   RecordType = "f"
)

// neverOr parses "never" as zero.
func neverOr(parse parser[time.Duration]) parser[time.Duration] {
	return func(v *value) (time.Duration, error) {
		if strings.EqualFold(v.text, "never") {
			return 0, nil
		}
		return parse(v)
	}
}

// sizeAtLeast parses a size that is not below least.
func sizeAtLeast(least Size) parser[Size] {
	return func(v *value) (Size, error) {
		s, err := size(v)
		if err == nil && s < least {
			err = fmt.Errorf("%s is too small; want at least %s", s, least)
		}
		return s, err
	}
}

// User is an account for SMTP AUTH. One without a password can never log in.
type User struct {
	Name     string
	Pos      Pos
	Method   AuthMethod
	Password Secret
	// Certificate is what proves the user by Method certificate.
	Certificate PeerCertificate
	Source      string // the named source that applies after login, or empty
	HoldExempt  HoldExempt
}

var userScope = newScope("smtp-user",
	one("authentication-method", authMethod, func(u *User) *AuthMethod { return &u.Method }),
	one("password", secret, func(u *User) *Secret { return &u.Password }),
	one("tls-certificate", peerCertificate, func(u *User) *PeerCertificate { return &u.Certificate }),
	one("source", identifier, func(u *User) *string { return &u.Source }),
	one("adaptive-hold", adaptiveHold, func(u *User) *HoldExempt { return &u.HoldExempt }),
).withDefaults(func() User { return User{Method: ByPassword} })

// User returns the account of that name.
func (c *Config) User(name string) (*User, bool) {
	u, ok := c.users[strings.ToLower(name)]
	return u, ok
}

var listenerScope = newScope("smtp-listener", append(
	serverTLSRows("", func(l *Listener, change func(*ServerTLS)) {
		l.tls = append(l.tls, change) // for later: the global directives come first
		change(&l.TLS)
	}),
	one("source", identifier, func(l *Listener) *string { return &l.Source }),
	orZero("no", many("await-slot", boolean, func(l *Listener) *[]bool { return &l.await })),
	one("immediate-tls", boolean, func(l *Listener) *bool { return &l.ImmediateTLS }),
)...).withDefaults(func() Listener { return Listener{TLS: defaultServerTLS()} })

// EventLog is where the node's events are kept until they are shipped.
type EventLog struct {
	Pos         Pos
	Dir         string
	SegmentSize Size // of one file
	QueueGauges int  // rows about the largest backlogs, every ten seconds
	MaxSize     Size // of what waits to be shipped, before new mail is refused; 0 means half of its file system
	Privacy     Privacy
}

func defaultEventLog() EventLog { return EventLog{SegmentSize: 64 << 20, QueueGauges: 200} }

var eventLogScope = newScope("event-log",
	one("segment-size", sizeAtLeast(64<<10), func(e *EventLog) *Size { return &e.SegmentSize }),
	one("queue-gauges", number(0, 10_000), func(e *EventLog) *int { return &e.QueueGauges }),
	one("max-size", sizeLimit, func(e *EventLog) *Size { return &e.MaxSize }),
	one("privacy-policy", privacy, func(e *EventLog) *Privacy { return &e.Privacy }),
).withDefaults(defaultEventLog)

// Feed is the folder in which limits and suppressions come back from analytics.
type Feed struct {
	Pos          Pos
	Dir          string
	PollInterval time.Duration
	// SuppressionKey is the key of the hash under which suppressed addresses are kept.
	SuppressionKey Secret
}

func defaultFeed() Feed { return Feed{PollInterval: time.Second} }

var feedScope = newScope("feed",
	one("poll-interval", positiveInterval, func(f *Feed) *time.Duration { return &f.PollInterval }),
	one("suppression-key-file", secretFile, func(f *Feed) *Secret { return &f.SuppressionKey }),
).withDefaults(defaultFeed)

// EventStream says where the node agent ships the event log.
type EventStream struct {
	Pos           Pos
	URL           *url.URL // clickhouse, http or https; never with a password
	User          string
	Password      Secret
	Database      string
	BatchSize     int           // events in a batch at most
	BatchInterval time.Duration // how long a batch waits for more events
}

func defaultEventStream() EventStream {
	return EventStream{User: "default", Database: "carom", BatchSize: 100_000, BatchInterval: time.Second}
}

var eventStreamScope = newScope("event-stream",
	one("user", freeText, func(s *EventStream) *string { return &s.User }),
	one("password-file", secretFile, func(s *EventStream) *Secret { return &s.Password }),
	one("database", identifier, func(s *EventStream) *string { return &s.Database }),
	one("batch-size", number(1, 10_000_000), func(s *EventStream) *int { return &s.BatchSize }),
	one("batch-interval", positiveInterval, func(s *EventStream) *time.Duration { return &s.BatchInterval }),
).withDefaults(defaultEventStream)

// streamURL reads the address of ClickHouse, or those of its replicas with commas between them, which
// url.Parse refuses where they have ports. Host holds all of them.
func streamURL(v *value) (*url.URL, error) {
	const (
		want    = "want an address such as clickhouse://db.example.com:9000 or http://127.0.0.1:8123"
		instead = "write them as user and password-file inside the section"
	)
	s, err := v.single(want)
	if err != nil {
		return nil, err
	}
	scheme, rest, _ := strings.Cut(s, "://")
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	if strings.Contains(rest[:end], "@") {
		return nil, errors.New("the address must not hold a user or password: " + instead)
	}
	var all *url.URL
	for host := range strings.SplitSeq(rest[:end], ",") {
		u, err := parseServer(scheme+"://"+host+rest[end:], want, instead, "clickhouse", "http", "https")
		if err != nil {
			return nil, err
		}
		if all == nil {
			all = u
		} else {
			all.Host += "," + u.Host
		}
	}
	return all, nil
}

// serverURL reads the address of a server. A login must not stand in it; instead says where it belongs.
func serverURL(v *value, want, instead string, schemes ...string) (*url.URL, error) {
	s, err := v.single(want)
	if err != nil {
		return nil, err
	}
	return parseServer(s, want, instead, schemes...)
}

func parseServer(s, want, instead string, schemes ...string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("bad address; " + want) // url's error would quote a password
	case u.User != nil:
		return nil, errors.New("the address must not hold a user or password: " + instead)
	case !slices.Contains(schemes, u.Scheme) || u.Host == "":
		return nil, fmt.Errorf("bad address %q; %s", s, want)
	}
	return u, nil
}

// Admin is the socket through which operators control the node.
type Admin struct {
	Pos  Pos
	Path string
}

var adminScope = newScope[Admin]("admin")

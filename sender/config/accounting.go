package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/textproto"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// AcctFile is an accounting file: a file, a program that reads records, or an address that takes
// them. The date and number of a file go before the extension of Path.
type AcctFile struct {
	Pos     Pos
	Path    string   // "" for a program
	Command []string // of a program: its path and arguments
	Records []RecordType
	// RecordFields are the lists of record-fields; of one record type the last counts.
	RecordFields []RecordFields
	HeaderFields []HeaderField
	QueueFilter  []QueuePattern // empty: all queues
	Privacy      Privacy
	UserString   string
	ISOTimes     bool // false: seconds since 1970

	MaxSize       Size          // of a file, or of what is sent at once
	MoveTo        string        // empty: finished files stay where they are
	MoveInterval  time.Duration // how often a new file starts; counts only with MoveTo
	DeleteAfter   time.Duration // 0 means never; counts only without MoveTo, and for records that nobody takes
	WorldReadable bool
	Sync          bool
	CountMoved    bool

	RetryInterval time.Duration // of a program: until it is started again
	WriteTimeout  time.Duration // of a program: how long it may read nothing

	Webhook Webhook
}

// Webhook is where an accounting file without a file sends its records.
type Webhook struct {
	URL            *url.URL // nil: it is a file or program
	Headers        []Secret // "Name: value", for each request
	Certificate    string   // file with the client's certificate and key; empty: none
	CAFile         string   // file with the authorities; empty: the system's
	MaxInterval    time.Duration
	Gzip           bool
	ConnectTimeout time.Duration
	IOTimeout      time.Duration
	Verbose        bool
}

// RecordFields names the fields of one kind of record: "*" for all, "!name" for all but it.
type RecordFields struct {
	Type   RecordType
	Fields []string
}

// HeaderField maps a header of the message to a field of a kind of record.
type HeaderField struct {
	Type          RecordType
	Header, Field string
}

// QueuePattern is one item of queue-filter.
type QueuePattern struct {
	Text   string // as it was written
	Not    bool   // queues that match are left out
	Domain DomainPattern
	VMTA   string // in lower case; "*" for any
}

// String returns the pattern as it is written.
func (p QueuePattern) String() string {
	not := ""
	if p.Not {
		not = "!"
	}
	return not + p.Domain.String() + "/" + p.VMTA
}

// WantsQueue reports whether records of the queue are wanted. The first pattern that matches decides;
// what none matches is not wanted.
func (a *AcctFile) WantsQueue(queue string) bool {
	domain, vmta, _ := strings.Cut(queue, "/")
	for _, p := range a.QueueFilter {
		if (p.VMTA == "*" || strings.EqualFold(p.VMTA, vmta)) && p.Domain.Match(domain) {
			return !p.Not
		}
	}
	return len(a.QueueFilter) == 0
}

// Fields returns the lists of record-fields by record type.
func (a *AcctFile) Fields() map[string][]string {
	fields := make(map[string][]string, len(a.RecordFields))
	for _, f := range a.RecordFields {
		fields[string(f.Type)] = f.Fields
	}
	return fields
}

// Privacy is the value of privacy-policy. The zero value retains.
type Privacy struct {
	Way string // "", redact, siphash or hmac-sha256
	Key Secret // or the text of redact
}

// String returns the policy without its key.
func (p Privacy) String() string {
	if p.Way == "" {
		return "retain"
	}
	return p.Way
}

// minAcctSize is PowerMTA's least max-size.
const minAcctSize = 1 << 20

// The bounds of what PowerMTA sends at once (User's Guide 5.0r5, 3.3.11.4).
const (
	minBatch     = 50 << 10
	defaultBatch = 5 << 20
	maxBatch     = 10 << 20
)

func defaultAcctFile() AcctFile {
	return AcctFile{
		ISOTimes:     true,
		MoveInterval: 24 * time.Hour, DeleteAfter: 8 * 24 * time.Hour,
		RetryInterval: 5 * time.Minute, WriteTimeout: time.Minute,
		Webhook: Webhook{MaxInterval: 5 * time.Minute, ConnectTimeout: 5 * time.Second, IOTimeout: 5 * time.Second},
	}
}

// finishAcctFiles gives those that name no records the usual ones.
func (c *Config) finishAcctFiles() {
	usual := []RecordType{Delivered, Bounced}
	if c.LogBounces {
		usual = append(usual, RemoteBounce)
	}
	for i := range c.AcctFiles {
		if a := &c.AcctFiles[i]; a.Records == nil {
			a.Records = usual
		}
	}
}

// commonAcctRows are the directives that an accounting file shares with a reject log.
func commonAcctRows() []directive[AcctFile] {
	return []directive[AcctFile]{
		one("max-size", size, func(a *AcctFile) *Size { return &a.MaxSize }),
		one("move-to", filePath, func(a *AcctFile) *string { return &a.MoveTo }),
		one("move-interval", positiveInterval, func(a *AcctFile) *time.Duration { return &a.MoveInterval }),
		one("delete-after", neverOr(positiveInterval), func(a *AcctFile) *time.Duration { return &a.DeleteAfter }),
		one("user-string", freeText, func(a *AcctFile) *string { return &a.UserString }),
		one("iso-times", boolean, func(a *AcctFile) *bool { return &a.ISOTimes }),
		one("world-readable", boolean, func(a *AcctFile) *bool { return &a.WorldReadable }),
		one("sync", boolean, func(a *AcctFile) *bool { return &a.Sync }),
		one("count-moved-records", boolean, func(a *AcctFile) *bool { return &a.CountMoved }),
		one("privacy-policy", privacy, func(a *AcctFile) *Privacy { return &a.Privacy }),
	}
}

var acctScope = newScope("acct-file", append(
	commonAcctRows(),
	one("records", records, func(a *AcctFile) *[]RecordType { return &a.Records }),
	many("record-fields", recordFieldsOf(acctTypes), func(a *AcctFile) *[]RecordFields { return &a.RecordFields }),
	many("map-header-to-field", headerField, func(a *AcctFile) *[]HeaderField { return &a.HeaderFields }),
	one("queue-filter", queueFilter, func(a *AcctFile) *[]QueuePattern { return &a.QueueFilter }),
	one("retry-interval", positiveInterval, func(a *AcctFile) *time.Duration { return &a.RetryInterval }),
	one("write-timeout", positiveInterval, func(a *AcctFile) *time.Duration { return &a.WriteTimeout }),
	one("http-webhook-url", webhookURL, func(a *AcctFile) **url.URL { return &a.Webhook.URL }),
	one("http-webhook-extra-headers", headerFile, func(a *AcctFile) *[]Secret { return &a.Webhook.Headers }),
	one("http-webhook-certificate", webhookCertificate, func(a *AcctFile) *string { return &a.Webhook.Certificate }),
	one("http-webhook-ca-file", filePath, func(a *AcctFile) *string { return &a.Webhook.CAFile }),
	one("http-webhook-max-interval", webhookInterval, func(a *AcctFile) *time.Duration { return &a.Webhook.MaxInterval }),
	one("http-webhook-transfer-encoding", gzipOnly, func(a *AcctFile) *bool { return &a.Webhook.Gzip }),
	one("http-webhook-connect-timeout", positiveInterval, func(a *AcctFile) *time.Duration { return &a.Webhook.ConnectTimeout }),
	one("http-webhook-io-timeout", positiveInterval, func(a *AcctFile) *time.Duration { return &a.Webhook.IOTimeout }),
	one("http-webhook-log-verbose", boolean, func(a *AcctFile) *bool { return &a.Webhook.Verbose }),
)...)

// rejectScope is that of the reject log, which is an accounting file with records of its own.
var rejectScope = newScope("rejectlog-file", append(
	commonAcctRows(),
	one("records", recordsOf(rejectTypes), func(a *AcctFile) *[]RecordType { return &a.Records }),
	many("record-fields", recordFieldsOf(rejectTypes), func(a *AcctFile) *[]RecordFields { return &a.RecordFields }),
)...)

// The records of a reject log.
const (
	RefusedConnection RecordType = "c"
	RefusedRecipient  RecordType = "r"
)

// recordWords are the spellings of each kind of record in one kind of file.
type recordWords map[string]RecordType

var rejectTypes = recordWords{
	"c": RefusedConnection, "connection": RefusedConnection,
	"r": RefusedRecipient, "recipient": RefusedRecipient,
}

var acctTypes = recordWords{
	"d": Delivered, "delivery": Delivered,
	"b": Bounced, "bounce": Bounced,
	"t": Transient, "transient": Transient,
	"tq": TransientQueue, "transient-queue": TransientQueue,
	"r": Received, "receipt": Received,
	"rb": RemoteBounce, "remote-bounce": RemoteBounce,
	"rs": RemoteStatus, "remote-status": RemoteStatus,
	"f": FeedbackLoop, "feedback-loop": FeedbackLoop, "fbl": FeedbackLoop,
}

// find returns the kind that a word names.
func (w recordWords) find(text string) (RecordType, bool) {
	t, ok := w[strings.ToLower(strings.Trim(text, blanks))]
	return t, ok
}

func (w recordWords) want() string {
	if _, ok := w["c"]; ok {
		return "want c or r, separated by commas"
	}
	return "want d, b, t, tq, r, rb, rs or f, separated by commas"
}

var records = recordsOf(acctTypes)

func recordsOf(words recordWords) parser[[]RecordType] {
	return func(v *value) ([]RecordType, error) {
		items, err := v.list(words.want())
		if err != nil {
			return nil, err
		}
		var all []RecordType
		for _, w := range items {
			t, ok := words.find(w.text)
			if !ok {
				return nil, w.errorf("bad record type %q; %s", w.text, words.want())
			}
			if !slices.Contains(all, t) {
				all = append(all, t)
			}
		}
		return all, nil
	}
}

// cutWord splits a value behind its first word. The place of rest is right.
func (v *value) cutWord() (first string, rest *value) {
	i := strings.IndexAny(v.text, blanks)
	if i < 0 {
		i = len(v.text)
	}
	pos := v.pos
	text := strings.TrimLeft(v.text[i:], blanks)
	pos.Column += len(v.text) - len(text)
	return v.text[:i], &value{text, pos, v.loader}
}

func recordFieldsOf(words recordWords) parser[RecordFields] {
	const want = "want a record type and its fields, for example d *,!dlvSize,header_Subject"
	return func(v *value) (RecordFields, error) {
		name, rest := v.cutWord()
		t, ok := words.find(name)
		if !ok {
			return RecordFields{}, fmt.Errorf("bad record type %q; %s", name, want)
		}
		items, err := rest.list(want)
		f := RecordFields{Type: t}
		for _, w := range items {
			if err := checkField(w, strings.TrimPrefix(w.text, "!")); err != nil {
				return f, err
			}
			f.Fields = append(f.Fields, w.text)
		}
		if err == nil && len(f.Fields) == 0 {
			err = errors.New("no field; " + want)
		}
		return f, err
	}
}

// acctFields are the names that record-fields takes besides "*" and those of headers.
var acctFields = []string{
	"type", "timeLogged", "timeQueued", "format", "userAgent", "orig", "rcpt", "orcpt", "dsnAction", "dsnStatus", "dsnDiag", "dsnMta",
	"dsnReportingMta", "reportingMta", "feedbackType", "bounceCat", "srcType", "srcMta", "rcvSourceIp", "rcvDestinationIp", "dlvType",
	"dlvSourceIp", "dlvDestinationIp", "dlvEsmtpAvailable", "dlvSize", "vmta", "jobId", "envId", "queue", "vmtaPool", "userString",
	"rcvSmtpUser", "dlvTlsProtocol", "dlvTlsCipher", "totalSecondsQueued", "repSourceIp", "reportedDomain", "timeFirstAttempt", "timeImprinted",
}

// AcctFields returns the names of the fields of accounting files, less those of headers.
func AcctFields() []string { return slices.Clone(acctFields) }

func checkField(w word, name string) error {
	lower := strings.ToLower(name)
	for _, prefix := range []string{"header_", "arf_"} {
		if rest, ok := strings.CutPrefix(lower, prefix); ok {
			if rest == "" || strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' }) {
				return w.errorf("bad header name in %q", w.text)
			}
			return nil
		}
	}
	if name == "*" || slices.ContainsFunc(acctFields, func(known string) bool { return strings.EqualFold(known, name) }) {
		return nil
	}
	return w.errorf("unknown field %q%s", name, closest(name, acctFields))
}

func headerField(v *value) (HeaderField, error) {
	const want = "want a record type, a header and a field, for example d header_x-list orig"
	words, err := v.words()
	switch {
	case err != nil:
		return HeaderField{}, err
	case len(words) != 3:
		return HeaderField{}, fmt.Errorf("%d words; %s", len(words), want)
	}
	t, ok := acctTypes.find(words[0].text)
	if !ok {
		return HeaderField{}, words[0].errorf("bad record type %q; %s", words[0].text, want)
	}
	if t == TransientQueue {
		return HeaderField{}, words[0].errorf("a transient-queue record is of no message: it has no headers")
	}
	name := words[1].text
	if len(name) <= len("header_") || !strings.EqualFold(name[:len("header_")], "header_") {
		return HeaderField{}, words[1].errorf("bad header %q; %s", name, want)
	}
	for _, w := range words[1:] {
		if err := checkField(w, w.text); err != nil {
			return HeaderField{}, err
		}
	}
	return HeaderField{Type: t, Header: name[len("header_"):], Field: words[2].text}, nil
}

func queueFilter(v *value) ([]QueuePattern, error) {
	const want = "want queues separated by commas, for example example.com/vmta1, ![*.]example.net/*"
	items, err := v.list(want)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return nil, errors.New("no queue; " + want)
	}
	all := make([]QueuePattern, len(items))
	for i, w := range items {
		text, not := strings.CutPrefix(w.text, "!")
		domain, vmta, named := strings.Cut(text, "/")
		if !named {
			vmta = DefaultVMTA
		}
		d, err := parseDomainPattern(domain)
		if err != nil {
			return nil, w.errorf("%v", err)
		}
		if _, err := checkName(vmta); err != nil || vmta == "" {
			return nil, w.errorf("bad virtual MTA %q; %s", vmta, want)
		}
		all[i] = QueuePattern{Text: w.text, Not: not, Domain: d, VMTA: strings.ToLower(vmta)}
	}
	return all, nil
}

// webhookCertificate is filePath for a file whose password somebody may have written behind it.
func webhookCertificate(v *value) (string, error) {
	words, err := v.words()
	if err != nil || len(words) != 1 || words[0].text == "" {
		return "", errors.New("want a path: of one PEM file with the certificate and its key, without a password")
	}
	return v.absolute(words[0].text), nil
}

// privacy parses a policy. Its errors do not quote the key.
func privacy(v *value) (Privacy, error) {
	const want = `want retain, redact ["TEXT"], siphash KEY, siphash-hexkey HEX, hmac-sha256 KEY or hmac-sha256-hexkey HEX`
	words, err := v.words()
	if err != nil || len(words) == 0 || len(words) > 2 {
		return Privacy{}, errors.New(want)
	}
	way := strings.ToLower(words[0].text)
	key := ""
	if len(words) == 2 {
		key = words[1].text
	}
	switch way {
	case "retain":
		if len(words) == 1 {
			return Privacy{}, nil
		}
	case "redact":
		if len(words) == 1 {
			key = "..."
		}
		return Privacy{way, NewSecret(key)}, nil
	case "siphash-hexkey", "hmac-sha256-hexkey":
		raw, err := hex.DecodeString(key)
		if err != nil {
			return Privacy{}, errors.New("the key is not hexadecimal: two digits for each octet")
		}
		way, key = strings.TrimSuffix(way, "-hexkey"), string(raw)
		fallthrough
	case "siphash", "hmac-sha256":
		switch {
		case key == "":
			return Privacy{}, errors.New("a key is missing: without one anybody can work out the addresses")
		case way == "siphash" && len(key) > 16:
			return Privacy{}, errors.New("the key of siphash has more than 16 octets")
		}
		return Privacy{way, NewSecret(key)}, nil
	}
	return Privacy{}, errors.New(want)
}

func webhookURL(v *value) (*url.URL, error) {
	return serverURL(v, "want an address such as https://collector.example.com/pmta",
		"write an Authorization header into the file of http-webhook-extra-headers", "http", "https")
}

// headerFile reads a file of header fields, one a line, whose values are secrets.
func headerFile(v *value) ([]Secret, error) {
	text, err := secretFile(v)
	if err != nil {
		return nil, err
	}
	var all []Secret
	number := 0
	for line := range strings.Lines(text.Reveal()) {
		number++
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		name, content, ok := strings.Cut(line, ":")
		if !ok || name == "" || textproto.TrimString(content) == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f }) ||
			strings.ContainsFunc(content, func(r rune) bool { return r < ' ' && r != '\t' }) {
			return nil, fmt.Errorf("line %d of the file is no header; want Name: value", number)
		}
		all = append(all, NewSecret(line))
	}
	return all, nil
}

// webhookInterval parses an interval that is at least PowerMTA's least.
func webhookInterval(v *value) (time.Duration, error) {
	d, err := interval(v)
	if err == nil && d < time.Minute {
		err = fmt.Errorf("%s is too short; want at least 1m", FormatDuration(d))
	}
	return d, err
}

var gzipOnly = scalar("want gzip", func(s string) (bool, error) {
	if !strings.EqualFold(s, "gzip") {
		return false, fmt.Errorf("bad encoding %q; want gzip", s)
	}
	return true, nil
})

// acctFile builds an <acct-file>.
func (b *builder) acctFile(n *node) {
	build(b, n, acctScope, func(v *value) (AcctFile, error) {
		a := defaultAcctFile()
		a.Pos = n.Pos
		var err error
		if strings.HasPrefix(strings.TrimLeft(v.text, `"`+blanks), "|") {
			a.Command, err = command(v)
		} else {
			a.Path, err = filePath(v)
		}
		return a, err
	}, func(a AcctFile) {
		b.acctSizes(n, &a)
		if len(a.Command) > 0 && a.Webhook.URL != nil {
			b.errorf(n.Pos, "http-webhook-url: this <acct-file> starts a program; a webhook needs a path")
		}
		if ext := strings.ToLower(filepath.Ext(a.Path)); ext == ".json" || ext == ".jsonl" {
			b.warnOnce(n.Pos, "<acct-file>", "records are CSV, also where the name ends in "+ext)
		}
		b.config.AcctFiles = append(b.config.AcctFiles, a)
	})
}

// rejectLog builds a <rejectlog-file>.
func (b *builder) rejectLog(n *node) {
	build(b, n, rejectScope, func(v *value) (AcctFile, error) {
		a := defaultAcctFile()
		a.Pos, a.Records = n.Pos, []RecordType{RefusedConnection, RefusedRecipient}
		var err error
		a.Path, err = filePath(v)
		return a, err
	}, func(a AcctFile) {
		b.acctSizes(n, &a)
		b.config.RejectLogs = append(b.config.RejectLogs, a)
	})
}

// acctSizes fills in max-size, or checks it: what is sent has other bounds than a file.
func (b *builder) acctSizes(n *node, a *AcctFile) {
	least, most, usual := Size(minAcctSize), Size(0), Size(250<<20)
	if a.Webhook.URL != nil {
		least, most, usual = minBatch, maxBatch, defaultBatch
	}
	pos := a.Pos
	for _, child := range n.Children {
		if child.Name == "max-size" {
			pos = child.ValuePos
		}
	}
	switch {
	case a.MaxSize == 0:
		a.MaxSize = usual
	case a.MaxSize < least:
		b.errorf(pos, "max-size: %s is too small; want at least %s", a.MaxSize, least)
	case most > 0 && a.MaxSize > most:
		b.errorf(pos, "max-size: %s is too big; want at most %s", a.MaxSize, most)
	}
}

// command parses the argument |PROGRAM ARGUMENTS, which may be quoted as a whole.
func command(v *value) ([]string, error) {
	const want = "want |PROGRAM and its arguments, separated by blanks"
	text := v.text
	if strings.HasPrefix(text, `"`) {
		whole, err := v.single(want)
		if err != nil {
			return nil, err
		}
		text = whole
	}
	words, err := (&value{strings.TrimLeft(text, "|"+blanks), v.pos, v.loader}).words()
	if err != nil {
		return nil, err
	}
	if len(words) == 0 || words[0].text == "" {
		return nil, errors.New("no program; " + want)
	}
	all := make([]string, len(words))
	for i, w := range words {
		all[i] = w.text
	}
	return all, nil
}

// MessageHeaders returns the headers of messages that accounting files ask for, less those of
// complaints, and the fields and headers of reports; each once, as they are named first.
func (c *Config) MessageHeaders() (messages, reports []string) {
	add := func(to *[]string, name string) {
		key := textproto.CanonicalMIMEHeaderKey(name)
		if !slices.Contains(*to, key) {
			*to = append(*to, key)
		}
	}
	ask := func(t RecordType, field string) {
		lower := strings.ToLower(field)
		if !strings.HasPrefix(lower, "header_") {
			return
		}
		switch name := field[len("header_"):]; t {
		case RemoteBounce, RemoteStatus, FeedbackLoop:
			add(&reports, name)
		default:
			add(&messages, name)
		}
	}
	for _, a := range c.AcctFiles {
		for _, f := range a.RecordFields {
			for _, field := range f.Fields {
				ask(f.Type, field)
			}
		}
		for _, h := range a.HeaderFields {
			ask(h.Type, "header_"+h.Header)
		}
	}
	return messages, reports
}

// CategoryRule is one line of <bounce-category-patterns>.
type CategoryRule struct {
	Pos      Pos
	Pattern  *regexp.Regexp
	Category string
}

// String returns the rule as it is written.
func (r CategoryRule) String() string {
	return "/" + strings.TrimPrefix(r.Pattern.String(), "(?i)") + "/ " + r.Category
}

var categoryScope = newScope("bounce-category-patterns",
	many("pattern", categoryRule, func(c *Config) *[]CategoryRule { return &c.BounceCategories }),
)

// bounceCategories are the names that PowerMTA's own patterns use.
var bounceCategories = []string{
	"bad-configuration", "bad-connection", "bad-domain", "bad-mailbox", "content-related", "inactive-mailbox", "invalid-sender", "message-expired",
	"no-answer-from-host", "other", "policy-related", "protocol-errors", "quota-issues", "relaying-issues", "routing-errors", "spam-related",
	"success", "virus-related",
}

// categoryRule parses "/REGEX/ CATEGORY".
func categoryRule(v *value) (CategoryRule, error) {
	const want = `want /PATTERN/ and a category, for example /\bquota\b/ quota-issues`
	if !strings.HasPrefix(v.text, "/") {
		return CategoryRule{}, fmt.Errorf("bad value %q; %s", v.text, want)
	}
	end := patternEnd(v.text)
	if end < 0 {
		if i := strings.LastIndexByte(v.text, '/'); i > 0 && !strings.ContainsAny(v.text[i:], blanks) {
			return CategoryRule{}, fmt.Errorf("a blank is missing behind the pattern %s", v.text[:i+1])
		}
		return CategoryRule{}, fmt.Errorf("the pattern %s has no closing /: is the line broken in two?", v.text)
	}
	r := CategoryRule{Pos: v.pos}
	var err error
	if r.Pattern, err = parseRegex(v.text[:end]); err != nil {
		return r, err
	}
	pos := v.pos
	pos.Column += end
	if r.Category, err = (&value{v.text[end:], pos, v.loader}).single(want); err == nil && r.Category == "" {
		err = errors.New("no category; " + want)
	}
	return r, err
}

// categories builds a <bounce-category-patterns>; what several hold is one list.
func (b *builder) categories(n *node) {
	before := len(b.config.BounceCategories)
	categoryScope.fill(b, n, b.config)
	for _, r := range b.config.BounceCategories[before:] {
		if slices.Contains(bounceCategories, r.Category) {
			continue
		}
		if hint := closest(r.Category, bounceCategories); hint != "" {
			b.warnOnce(r.Pos, r.Category, "no category of PowerMTA's"+hint)
		}
	}
}

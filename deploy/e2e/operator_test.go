package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/smtp"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"
	gosmtp "github.com/emersion/go-smtp"
	"golang.org/x/tools/txtar"

	"carom/deploy/receivers"
	"carom/deploy/up/supervise"
	"carom/sender/admin"
)

// operatorScenario has receivers for the domains of the operators' files: some that take all, one that
// has blocked everybody, one where nobody is known, one where everybody complains.
const operatorScenario = `{
  "version": 1, "seed": 5, "providers": [
    {"name": "open", "domains": ["gmail.com", "t-online.de", "mail.de", "inbox.com", "elsewhere.example"], "mx": ["mx1.open.example"]},
    {"name": "microsoft", "domains": ["hotmail.com", "live.com"], "mx": ["mx1.olc.example"]},
    {"name": "yahoo", "domains": ["yahoo.com"], "mx": ["mta5.yahoo.example"], "refuse_at": "mail",
     "block": {"scripted": [{"at": "0s", "len": "1h"}]},
     "texts": {"BLOCK": "421 4.7.0 [TSS04] Messages from {ip} temporarily deferred due to unexpected volume"}},
    {"name": "gone", "domains": ["gone.example"], "mx": ["mx.gone.example"], "unknown_user_frac": 1,
     "texts": {"USER": "550 5.1.1 <{rcpt}>: user unknown"}},
    {"name": "cross", "domains": ["cross.example"], "mx": ["mx.cross.example"],
     "complaints": {"base": 1, "delay_s": [0, 0.1], "fbl_to": "{{reports}}"}}
  ]
}`

// A feed is mail that somebody hands over, a message for each recipient.
type feed struct {
	user, password string // none: without AUTH
	from           string
	to             []string
	header         string
	refused        bool // at RCPT
}

// An operator is one whose files carom is started with, unchanged but for places and addresses.
type operator struct {
	name       string
	complainTo string
	feeds      []feed
	// sources is what each recipient domain has to see: the last octets of 192.0.2.x.
	sources map[string][]string
	// signed is the domain whose key has to have signed what goes to archive.example.
	signed string
	// shown and hidden must and must not stand in that mail.
	shown, hidden []string
	backoff       string // a queue that has to be in backoff mode at the end
	waiting       int    // recipients that wait at the end
	// records are the numbers of records by file and type.
	records map[string]map[string]int
	// header is what the first line of a file has to be.
	header map[string]string
	// fields must hold for some record of the file: NAME=VALUE by type.
	fields map[string][]string
}

// The columns that importers of PowerMTA's files expect, in this order.
const deliveryColumns = "type,timeLogged,timeQueued,orig,rcpt,orcpt,dsnAction,dsnStatus,dsnDiag,dsnMta,bounceCat,srcType,srcMta," +
	"dlvType,dlvSourceIp,dlvDestinationIp,dlvEsmtpAvailable,dlvSize,vmta,jobId,envId,queue,vmtaPool"

func spread(format string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(format, i)
	}
	return list
}

func octets(from, to int) []string {
	var list []string
	for i := from; i <= to; i++ {
		list = append(list, strconv.Itoa(i))
	}
	return list
}

var operators = []operator{
	{
		name: "esp", complainTo: "abuse@fbl.esp.example",
		feeds: []feed{
			{from: "news@esp.example", to: spread("r%d@gmail.com", 20), header: "X-Job: june\r\nX-Virtual-MTA: marketing\r\n", user: "customer", password: "correct horse"},
			{from: "news@esp.example", to: []string{"gone@gmail.com"}, user: "customer", password: "correct horse", refused: true},
			{from: "stranger@example.org", to: []string{"a@gmail.com"}, refused: true},
			{from: "order@esp.example", to: spread("r%d@hotmail.com", 4), header: "X-Envid: 77\r\n"},
			{from: "order@esp.example", to: []string{"w@live.com"}, header: "X-Virtual-MTA: warmup\r\n"},
			{from: "order@esp.example", to: []string{"y@yahoo.com"}, header: "X-Virtual-MTA: mta1\r\n"},
			{from: "order@esp.example", to: []string{"nobody@gone.example"}},
			{from: "order@esp.example", to: []string{"annoyed@cross.example"}},
			{from: "order@esp.example", to: []string{"box@archive.example"}, header: "X-Job: secret\r\n"},
		},
		sources: map[string][]string{"gmail.com": octets(23, 38), "hotmail.com": octets(21, 22), "live.com": octets(39, 40)},
		signed:  "esp.example", hidden: []string{"X-Job:", "X-Virtual-MTA:"},
		backoff: "yahoo.com/mta1", waiting: 1,
		records: map[string]map[string]int{"acct": {"d": 27, "b": 1}, "diag": {"t": 1}, "fbl": {"f": 1}},
		header:  map[string]string{"acct": deliveryColumns},
		fields: map[string][]string{
			"acct": {"d jobId=c1-june", "d vmtaPool=marketing", "d queue=microsoft.rollup/mta1", "d envId=77", "d dsnStatus=2.0.0 (success)", "b bounceCat=bad-mailbox", "b dsnStatus=5.1.1 (bad destination mailbox address)"},
			"diag": {"t queue=yahoo.com/mta1", "t header_Subject=hello"},
			"fbl":  {"f rcpt=annoyed@cross.example", "f format=arf", "f feedbackType=abuse"},
		},
	},
	{
		name: "newsletter",
		feeds: []feed{
			{from: "eil@zeitung.example", to: []string{"a@gmail.com"}},
			{from: "lokal@cms.intern.example", to: spread("r%d@t-online.de", 3), header: "X-Ausgabe: nord\r\n"},
			{from: "lokal@cms.intern.example", to: []string{"chef@elsewhere.example"}, header: "X-Ausgabe: probe-3\r\n"},
			{from: "lokal@cms.intern.example", to: []string{"box@archiv.example"}, header: "X-Intern: yes\r\n"},
			{from: "lokal@cms.intern.example", to: []string{"weg@gone.example"}},
		},
		sources: map[string][]string{"gmail.com": {"11"}, "t-online.de": {"12"}, "elsewhere.example": {"11"}},
		signed:  "cms.intern.example", shown: []string{"Date:"}, hidden: []string{"X-Intern:"},
		records: map[string]map[string]int{"konto": {"d": 6, "b": 1}},
		header:  map[string]string{"konto": deliveryColumns + ",userString"},
		fields: map[string][]string{"konto": {
			"d orig=lokal@leser.zeitung.example", "d jobId=nord", "d userString=ausgabe-nord", "d vmta=eilig", "b bounceCat=bad-mailbox",
		}},
	},
	{
		name: "shop", complainTo: "fbl@bounce.shop.example",
		feeds: []feed{
			{from: "shop@shop.example", to: spread("r%d@gmail.com", 12), header: "X-Virtual-MTA: pool1\r\nX-Job: sale\r\n"},
			{from: "shop@shop.example", to: []string{"annoyed@cross.example"}},
			{from: "shop@shop.example", to: []string{"y@yahoo.com"}, header: "X-Virtual-MTA: vmta-ip2\r\n"},
		},
		sources: map[string][]string{"gmail.com": {"31", "32"}},
		signed:  "shop.example", waiting: 1, // the report of the complaint has a blind copy too
		records: map[string]map[string]int{"acct": {"d": 28, "f": 1}},
		fields:  map[string][]string{"acct": {"d vmtaPool=pool1", "f rcpt=annoyed@cross.example"}},
	},
	{
		name: "agency",
		feeds: []feed{
			{from: "a@alpha.example", to: spread("r%d@mail.de", 5), header: "X-Job: -7\r\nX-Virtual-MTA: nonsense\r\n", user: "alpha", password: "alpha-secret"},
			{from: "b@beta.example", to: []string{"x@elsewhere.example"}, user: "beta", password: "beta-secret"},
			{from: "b@beta.example", to: []string{"x@elsewhere.example"}, refused: true},
			{from: "a@alpha.example", to: []string{"box@archive.example"}, user: "alpha", password: "alpha-secret"},
		},
		sources: map[string][]string{"mail.de": {"41", "42"}, "elsewhere.example": {"42"}},
		signed:  "alpha.example", shown: []string{"X-Report-Abuse: https://agency.example/abuse"},
		records: map[string]map[string]int{"acct": {"d": 6}},
		fields:  map[string][]string{"acct": {"d rcpt=...@mail.de", "d jobId=alpha-7", "d vmta=main", "d vmta=fresh"}},
	},
}

// TestOperators starts the node with files as operators of PowerMTA have them, hands mail over as their
// applications do, and looks at what arrives and what the accounting files say.
func TestOperators(t *testing.T) {
	for _, o := range operators {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			n := startOperator(t, o)
			for _, f := range o.feeds {
				for _, to := range f.to {
					n.hand(t, f, to)
				}
			}
			await(t, time.Minute, "the end of all but what waits", func(ctx context.Context) error {
				s, err := n.status(ctx)
				if err != nil {
					return err
				}
				if s.LiveRecipients != o.waiting {
					return fmt.Errorf("%d recipients live", s.LiveRecipients)
				}
				for file, want := range o.records { // a complaint may still be on its way
					rows, err := n.rows(file)
					if err != nil {
						return err
					}
					if got := recordTypes(rows); !maps.Equal(got, want) {
						return fmt.Errorf("%s: %v records, want %v", file, got, want)
					}
				}
				return nil
			})
			n.checkSources(t)
			n.checkArchive(t)
			n.checkBackoff(t)
			for file := range o.records {
				n.checkFile(t, file)
			}
		})
	}
}

// operatorNode is a node with an operator's files.
type operatorNode struct {
	*system
	operator

	key *rsa.PrivateKey

	mu   sync.Mutex
	mail [][]byte // that came to archive.example
}

// network is where this machine has the addresses 192.0.2.x of the files.
const network = "127.192.2."

var (
	listenerLine = regexp.MustCompile(`(?m)^(smtp-listener|smtp-ip) 192\.0\.2\.10\S*$|^smtp-port 25$`)
	keyFile      = regexp.MustCompile(`(?m)domain-key [^/\n]*(/\S+\.pem)`)
	folders      = regexp.MustCompile(`/(?:etc|var/log|var/spool)/(?:pmta|powermta)`)
)

func startOperator(t *testing.T, o operator) *operatorNode {
	t.Helper()
	n := &operatorNode{operator: o, system: &system{dir: t.TempDir(), smtp: freeAddress(t), supervisor: newSupervisor(t)}}
	n.startReceivers(t, strings.ReplaceAll(operatorScenario, "{{reports}}", "smtp://"+n.smtp+"/"+o.complainTo))
	n.takeArchive(t)

	archive, err := txtar.ParseFile(filepath.Join("testdata", "operators", o.name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	places := func(path string) string {
		return filepath.Join(n.dir, map[string]string{"/etc": "etc", "/var/log": "log", "/var/spool": "spool"}[filepath.Dir(path)])
	}
	if n.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	for _, f := range archive.Files {
		text := strings.ReplaceAll(string(f.Data), "\r\n", "\n")
		crlf := text != string(f.Data)
		listening := false
		text = listenerLine.ReplaceAllStringFunc(text, func(line string) string {
			if listening {
				return "" // the port, which stands in the line of the address
			}
			listening = true
			return "smtp-listener " + n.smtp
		})
		if listening { // only the simulated world is added
			text += "name-server " + n.receivers.DNS + "\ndefault-smtp-port " + strconv.Itoa(n.receivers.SMTPPort) + "\n"
		}
		text = folders.ReplaceAllStringFunc(strings.ReplaceAll(text, "192.0.2.", network), places)
		for _, key := range keyFile.FindAllStringSubmatch(text, -1) {
			n.writeKey(t, key[1])
		}
		if crlf {
			text = strings.ReplaceAll(text, "\n", "\r\n")
		}
		file := filepath.Join(n.dir, "etc", f.Name)
		if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
			t.Fatal(err)
		}
		write(t, file, text)
	}

	file, ready := filepath.Join(n.dir, "etc", "config"), filepath.Join(n.dir, "ready")
	err = n.supervisor.Start(t.Context(), supervise.Process{
		Name: "sender", Path: carom, Once: true,
		Args:  []string{"sender", "-c", file, "--ready-file", ready},
		Ready: func(context.Context) error { _, err := os.Stat(ready); return err },
	})
	if err != nil {
		t.Fatalf("carom sender: %v", err)
	}
	spool := regexp.MustCompile(`(?m)(?:spool|<disk-queue) (/[^\s>]+)`).FindStringSubmatch(readFile(t, file))
	n.admin = adminClient(filepath.Join(spool[1], "admin.sock"))
	return n
}

// adminClient returns a client of a node's admin socket.
func adminClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (n *operatorNode) writeKey(t *testing.T, file string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		t.Fatal(err)
	}
	write(t, file, string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(n.key)})))
}

// takeArchive takes mail at the address that the files have for archive.example.
func (n *operatorNode) takeArchive(t *testing.T) {
	t.Helper()
	// The operators' nodes run side by side, each with a port of its own.
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", network+"250:"+strconv.Itoa(n.receivers.SMTPPort))
	if err != nil {
		t.Fatal(err)
	}
	server := gosmtp.NewServer(gosmtp.BackendFunc(func(*gosmtp.Conn) (gosmtp.Session, error) { return archiveSession{n}, nil }))
	server.Domain = "archive.example"
	server.ErrorLog = log.New(io.Discard, "", 0)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = l.Close() // not the server's Close, which races with its own sessions
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("archive: %v", err)
		}
	})
}

type archiveSession struct{ n *operatorNode }

func (archiveSession) Reset()                                 {}
func (archiveSession) Logout() error                          { return nil }
func (archiveSession) Mail(string, *gosmtp.MailOptions) error { return nil }
func (archiveSession) Rcpt(string, *gosmtp.RcptOptions) error { return nil }
func (s archiveSession) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	s.n.mail = append(s.n.mail, text)
	return err
}

// hand hands over a message of f.
func (n *operatorNode) hand(t *testing.T, f feed, to string) {
	t.Helper()
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	if f.user != "" || f.refused { // a customer comes from somewhere else than the application
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(network + "99")}
	}
	conn, err := dialer.DialContext(t.Context(), "tcp", n.smtp)
	if err != nil {
		t.Fatal(err)
	}
	c, err := smtp.NewClient(conn, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	step := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s hands over mail to %s: %s: %v", f.from, to, what, err)
		}
	}
	step("EHLO", c.Hello("app.example"))
	if f.user != "" {
		step("AUTH", c.Auth(smtp.PlainAuth("", f.user, f.password, "127.0.0.1")))
	}
	if err := c.Mail(f.from); err != nil && f.refused {
		return
	} else if err != nil {
		step("MAIL", err)
	}
	if err := c.Rcpt(to); (err != nil) != f.refused {
		t.Fatalf("%s hands over mail to %s: refused %t, want %t: %v", f.from, to, err != nil, f.refused, err)
	}
	if f.refused {
		return
	}
	w, err := c.Data()
	step("DATA", err)
	_, err = fmt.Fprintf(w, "%sFrom: %s\r\nTo: undisclosed-recipients:;\r\nSubject: hello\r\n\r\nhello\r\n", f.header, f.from)
	step("content", err)
	step("end of data", w.Close())
	step("QUIT", c.Quit())
}

// checkSources looks from which addresses each domain got its mail.
func (n *operatorNode) checkSources(t *testing.T) {
	t.Helper()
	saw := map[string]map[string]bool{}
	for _, a := range readLines[receivers.Accepted](t, filepath.Join(n.dir, "accepted.ndjson")) {
		_, domain, _ := strings.Cut(a.Recipient, "@")
		if saw[domain] == nil {
			saw[domain] = map[string]bool{}
		}
		saw[domain][strings.TrimPrefix(a.Source, network)] = true
	}
	for domain, want := range n.sources {
		got := slices.Sorted(maps.Keys(saw[domain]))
		for _, source := range got {
			if !slices.Contains(want, source) {
				t.Errorf("%s got mail from %v, want from %v alone", domain, got, want)
			}
		}
		if len(got) == 0 || len(want) == 2 && domain != "live.com" && len(got) != 2 {
			t.Errorf("%s got mail from %v, want from %v", domain, got, want)
		}
	}
}

// checkArchive looks at a message as it arrived.
func (n *operatorNode) checkArchive(t *testing.T) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	public := base64.StdEncoding.EncodeToString(publicKey(t, n.key))
	for _, text := range n.mail {
		found, err := dkim.VerifyWithOptions(bytes.NewReader(text), &dkim.VerifyOptions{
			LookupTXT: func(string) ([]string, error) { return []string{"v=DKIM1; k=rsa; p=" + public}, nil },
		})
		if err != nil || len(found) != 1 || found[0].Err != nil || found[0].Domain != n.signed {
			continue
		}
		for _, want := range n.shown {
			if !bytes.Contains(text, []byte(want)) {
				t.Errorf("mail without %q:\n%s", want, text)
			}
		}
		for _, secret := range n.hidden {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("mail with %q:\n%s", secret, text)
			}
		}
		return
	}
	t.Errorf("no mail that %s signed, in %d:\n%s", n.signed, len(n.mail), bytes.Join(n.mail, []byte("\n")))
}

func publicKey(t *testing.T, key *rsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (n *operatorNode) checkBackoff(t *testing.T) {
	t.Helper()
	if n.backoff == "" {
		return
	}
	out, errs, status := run(t, n.dir, "queue", "top", "-c", filepath.Join(n.dir, "etc", "config"), "--once", "--json", "--mode", "backoff")
	var top []admin.Queue
	if err := json.Unmarshal([]byte(out), &top); err != nil || status != 0 {
		t.Fatalf("carom queue top: exit status %d, %v\n%s%s", status, err, out, errs)
	}
	if len(top) != 1 || top[0].Name != n.backoff {
		t.Errorf("queues in backoff mode: %+v, want %s", top, n.backoff)
	}
}

// rows returns the lines of an accounting file, the names of its columns first.
func (n *operatorNode) rows(name string) ([][]string, error) {
	files, err := filepath.Glob(filepath.Join(n.dir, "log", name+"-*.csv"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no file %s", name)
	}
	var text bytes.Buffer
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		text.Write(data)
	}
	if bytes.Count(text.Bytes(), []byte("\r\n")) != bytes.Count(text.Bytes(), []byte("\n")) {
		return nil, fmt.Errorf("%s: lines that do not end with CRLF", name)
	}
	rows, err := csv.NewReader(&text).ReadAll()
	if err == nil && len(rows) == 0 {
		err = fmt.Errorf("%s is empty", name)
	}
	return rows, err
}

// recordTypes counts the records of each type.
func recordTypes(rows [][]string) map[string]int {
	count := map[string]int{}
	for _, row := range rows[1:] {
		count[row[0]]++
	}
	return count
}

// checkFile reads an accounting file as others do: by the names in its first line.
func (n *operatorNode) checkFile(t *testing.T, name string) {
	t.Helper()
	rows, err := n.rows(name)
	if err != nil {
		t.Fatal(err)
	}
	columns := rows[0]
	if want := n.header[name]; want != "" && strings.Join(columns, ",") != want {
		t.Errorf("%s: columns\n%s, want\n%s", name, strings.Join(columns, ","), want)
	}
	times := regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4}$`)
	if n.name == "newsletter" { // iso-times no
		times = regexp.MustCompile(`^\d{10}$`)
	}
	saw := map[string]bool{}
	for _, row := range rows[1:] {
		for i, column := range columns {
			saw[row[0]+" "+column+"="+row[i]] = true
			if strings.HasPrefix(column, "time") && row[i] != "" && !times.MatchString(row[i]) {
				t.Errorf("%s: %s is %q", name, column, row[i])
			}
		}
	}
	for _, want := range n.fields[name] {
		if !saw[want] {
			t.Errorf("%s: no record with %s in %q", name, want, rows)
		}
	}
}

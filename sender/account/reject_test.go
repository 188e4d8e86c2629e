package account

import (
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"carom/schemas/event"
	"carom/schemas/smtpstatus"
)

func TestRejectLog(t *testing.T) {
	dir := t.TempDir()
	l, err := OpenRejectLog(FileOptions{Path: filepath.Join(dir, "reject.csv"), RecordOptions: RecordOptions{Records: []string{"c", "r"}, UserString: "node 1"}})
	if err != nil {
		t.Fatal(err)
	}
	l.file.now, l.file.layout.zone = noonClock, zone
	connection := event.Event{Time: noon, ClientIP: netip.MustParseAddr("192.0.2.9"), Listener: "198.51.100.1:25"}
	connection.SetReply(smtpstatus.New(421, "4.3.2 too many connections, try again later"))
	recipient := event.Event{
		Kind: event.Rejected, Time: noon, MessageID: event.NewID(), MailFrom: "a@shop.test", Recipient: "x@example.com",
		ClientIP: netip.MustParseAddr("192.0.2.9"), ClientMTA: "app", Listener: "198.51.100.1:25",
	}
	recipient.SetReply(smtpstatus.New(550, "5.7.1 relaying denied"))
	other := delivered()
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := l.RefusedConnection(&connection); err != nil {
			t.Error(err)
		}
	})
	wait.Wait()
	for _, e := range []event.Event{recipient, other} {
		if err := l.Write(&e, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := l.Rotate(); err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"type,timeLogged,orig,rcpt,dsnStatus,dsnDiag,srcType,srcMta,rcvSourceIp,rcvDestinationIp,rcvSmtpUser,jobId,userString",
		`c,2026-11-23 13:00:00+0100,,,4.3.2 (mail system-related failure),"smtp;421 4.3.2 too many connections, try again later",smtp,(192.0.2.9),192.0.2.9,198.51.100.1,,,node 1`,
		"r,2026-11-23 13:00:00+0100,a@shop.test,x@example.com,5.7.1 (delivery not authorized),smtp;550 5.7.1 relaying denied,smtp,app (192.0.2.9),192.0.2.9,198.51.100.1,,,node 1",
		"",
	}, "\r\n")
	if diff := cmp.Diff(want, listing(t, dir)["reject-2026-11-23-0000.csv"]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := OpenRejectLog(FileOptions{Path: filepath.Join(dir, "x.csv"), RecordOptions: RecordOptions{Records: []string{"d"}}}); err == nil {
		t.Error("a record of deliveries in a reject log is no error")
	}
}

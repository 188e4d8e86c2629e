package smtpd

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

const open = `
<source 127.0.0.1>
    always-allow-relaying yes
</source>
`

func TestDialogue(t *testing.T) {
	for _, tc := range []struct {
		name, conf, dialogue string
		suppressed           []string
		accepted             int
		refused              []string
	}{
		{
			name: "relay is closed", dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<a@feeder.test>
				S: 250 2.0.0
				RCPT TO:<b@away.test>
				S: 550 5.7.1 relaying denied
				DATA
				S: 502`,
			refused: []string{"<b@away.test> 550"},
		},
		{
			name: "always-allow-relaying", conf: open, dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<a@feeder.test>
				S: 250
				RCPT TO:<b@away.test>
				S: 250
				DATA
				S: 354
				Subject: x

				y
				.
				S: 250 2.0.0
				QUIT
				S: 221
				S:`,
			accepted: 1,
		},
		{
			name: "relay-domain and own host name", conf: "host-name mx.test\nrelay-domain inside.test", dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<>
				S: 250
				RCPT TO:<b@away.test>
				S: 550 5.7.1
				RCPT TO:<b@INSIDE.test>
				S: 250
				RCPT TO:<postmaster@mx.test>
				S: 250`,
			refused: []string{"<b@away.test> 550"},
		},
		{
			name: "report address from anybody", dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<>
				S: 250
				RCPT TO:<token@bounces.test>
				S: 250
				DATA
				S: 354
				.
				S: 250`,
			accepted: 1,
		},
		{
			name: "smtp-service no", conf: "<source 127/8>\nsmtp-service no\n</source>", dialogue: `
				S: 521 5.3.2 host does not accept mail from you
				S:`,
		},
		{
			name: "require-auth", conf: open + "<source 127.0.0.1>\nrequire-auth yes\n</source>", dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<a@feeder.test>
				S: 530 5.7.0
				RCPT TO:<b@away.test>
				S: 502`,
			refused: []string{"<> 530"},
		},
		{
			name: "suppressed for all and for the source's tenant", conf: open, suppressed: []string{"/all@away.test", "127.0.0.1/mine@away.test", "other/ok@away.test"}, dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<a@feeder.test>
				S: 250
				RCPT TO:<all@away.test>
				S: 550 5.7.1 recipient is suppressed
				RCPT TO:<mine@away.test>
				S: 550 5.7.1 recipient is suppressed
				RCPT TO:<ok@away.test>
				S: 250`,
			refused: []string{"<all@away.test> 550", "<mine@away.test> 550"},
		},
		{
			name: "suppressed-recipients bounce leaves them to delivery", conf: open + "<source 127.0.0.1>\nsuppressed-recipients bounce\n</source>",
			suppressed: []string{"/all@away.test"}, dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<a@feeder.test>
				S: 250
				RCPT TO:<all@away.test>
				S: 250
				DATA
				S: 354

				.
				S: 250`,
			accepted: 1,
		},
		{
			name: "suppressed-recipients bounce where a header names the tenant", suppressed: []string{"shop/mine@away.test"},
			conf: open + "<source 127.0.0.1>\nsuppressed-recipients bounce\ntenant-header X-Tenant\n</source>", dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<a@feeder.test>
				S: 250
				RCPT TO:<mine@away.test>
				S: 250
				DATA
				S: 354
				X-Tenant: shop

				.
				S: 250`,
			accepted: 1,
		},
		{
			name: "max-rcpt-per-message is for the feeder to deal with", conf: open + "<source 127.0.0.1>\nmax-rcpt-per-message 2\n</source>", dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<a@feeder.test>
				S: 250
				RCPT TO:<a@away.test>
				S: 250
				RCPT TO:<b@away.test>
				S: 250
				RCPT TO:<c@away.test>
				S: 452 4.5.3
				DATA
				S: 354

				.
				S: 250
				MAIL FROM:<a@feeder.test>
				S: 250
				RCPT TO:<c@away.test>
				S: 250`,
			accepted: 1,
		},
		{
			name: "max-message-size by SIZE", conf: open + "<source 127.0.0.1>\nmax-message-size 1K\n</source>", dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<a@feeder.test> SIZE=1025
				S: 552 5.3.4
				MAIL FROM:<a@feeder.test> SIZE=1024
				S: 250`,
			refused: []string{"<> 552"},
		},
		{
			name: "max-message-hops", conf: open + "<source 127.0.0.1>\nmax-message-hops 1\n</source>", dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<a@feeder.test>
				S: 250
				RCPT TO:<a@away.test>
				S: 250
				DATA
				S: 354
				Received: one
				received: two

				.
				S: 554 5.4.6
				MAIL FROM:<a@feeder.test>
				S: 250
				RCPT TO:<a@away.test>
				S: 250
				DATA
				S: 354
				Received: one

				Received: in the body
				.
				S: 250`,
			refused: []string{"<> 554"}, accepted: 1,
		},
		{
			name: "unknown virtual MTA, and its name in the reply", conf: open + "<source 127.0.0.1>\nprocess-x-virtual-mta yes\n</source>", dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<a@feeder.test>
				S: 250
				RCPT TO:<a@away.test>
				S: 250
				DATA
				S: 354
				X-Virtual-MTA: no` + "\x01\x7f\xff" + `pe

				.
				S: 550 5.5.0 no virtual MTA no???pe`,
			refused: []string{"<> 550"},
		},
		{
			name: "job IDs have no white space", conf: open + "<source 127.0.0.1>\nprocess-x-job yes\n</source>", dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<a@feeder.test>
				S: 250
				RCPT TO:<a@away.test>
				S: 250
				DATA
				S: 354
				X-Job: two words

				.
				S: 554 5.6.0 job ID`,
			refused: []string{"<> 554"},
		},
		{
			name: "a second MAIL does not mix two messages", conf: open, dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<a@feeder.test>
				S: 250
				RCPT TO:<a@away.test>
				S: 250
				MAIL FROM:<b@feeder.test>
				S: 503 5.5.1
				DATA
				S: 354

				.
				S: 250`,
			accepted: 1,
		},
		{
			name: "RSET and a second EHLO forget the message", conf: open, dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<a@feeder.test>
				S: 250
				RCPT TO:<a@away.test>
				S: 250
				RSET
				S: 250
				DATA
				S: 502
				MAIL FROM:<a@feeder.test>
				S: 250
				RCPT TO:<a@away.test>
				S: 250
				EHLO feeder.test
				S: 250
				RCPT TO:<a@away.test>
				S: 502
				MAIL FROM:<a@feeder.test>
				S: 250`,
		},
		{
			name: "several messages on a connection", conf: open, dialogue: `
				HELO feeder.test
				S: 250
				MAIL FROM:<a@feeder.test>
				S: 250
				RCPT TO:<a@away.test>
				S: 250
				DATA
				S: 354
				.
				S: 250
				MAIL FROM:<b@feeder.test>
				S: 250
				RCPT TO:<b@away.test>
				S: 250
				DATA
				S: 354
				.
				S: 250`,
			accepted: 2,
		},
		{
			name: "bad addresses", conf: open, dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<a@fee"der.test>
				S: 501 5.1.7
				MAIL FROM:<>
				S: 250
				RCPT TO:<nobody>
				S: 501
				RCPT TO:<"tab` + "\x01" + `"@away.test>
				S: 501 5.1.3
				RCPT TO:<` + "\xff" + `@away.test>
				S: 501 5.1.3
				RCPT TO:<a@away,test>
				S: 501 5.1.3`,
			refused: []string{"<> 501", `<tab?@away.test> 501`, "<?@away.test> 501", "<a@away,test> 501"},
		},
		{
			name: "unknown commands", dialogue: `
				WHAT is this
				S: 500
				WHAT is this
				S: 500
				WHAT is this
				S: 500
				WHAT is this
				S: 500 5.5.2
				S: 500 5.5.1 Too many errors
				S:`,
		},
		{
			name: "CHUNKING", conf: open, dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<a@feeder.test>
				S: 250
				RCPT TO:<a@away.test>
				S: 250
				BDAT 6
				a: b
				S: 250
				BDAT 8 LAST

				body
				S: 250
				MAIL FROM:<a@feeder.test>
				S: 250`,
			accepted: 1,
		},
		{
			name: "RSET between two chunks", conf: open, dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<a@feeder.test>
				S: 250
				RCPT TO:<a@away.test>
				S: 250
				BDAT 6
				a: b
				S: 250
				RSET
				S: 250
				BDAT 2 LAST

				S: 503
				MAIL FROM:<b@feeder.test>
				S: 250
				RCPT TO:<b@away.test>
				S: 250
				BDAT 10 LAST
				second

				S: 250
				QUIT
				S: 221
				S:`,
			accepted: 1,
		},
		{
			name: "CHUNKING is not allowed", conf: open + "<source 127.0.0.1>\nallow-chunking no\nallow-smtputf8 no\n</source>", dialogue: `
				EHLO feeder.test
				S: 250
				MAIL FROM:<a@feeder.test> SMTPUTF8
				S: 504 5.5.4
				MAIL FROM:<a@feeder.test>
				S: 250
				RCPT TO:<a@away.test>
				S: 250
				BDAT 6 LAST
				QUIT
				S: 503 5.5.1
				DATA
				S: 354
				.
				S: 250`,
			accepted: 1, refused: []string{"<> 504"},
		},
		{
			name: "nothing but chunks inside a message of chunks", conf: open, dialogue: `
				EHLO feeder.test
				S: 250
				BDAT 2

				S: 503 5.5.1
				MAIL FROM:<a@feeder.test>
				S: 250
				BDAT 6
				QUIT
				S: 503 5.5.1
				RCPT TO:<a@away.test>
				S: 250
				BDAT 6
				QUIT
				S: 250
				RCPT TO:<b@away.test>
				S: 503 5.5.1
				DATA
				S: 503 5.5.1
				MAIL FROM:<a@feeder.test>
				S: 503 5.5.1
				NOOP
				S: 250
				BDAT 0 LAST
				S: 250
				BDAT 0 LAST
				S: 503 5.5.1`,
			accepted: 1,
		},
		{
			name: "BDAT that makes no sense ends the session", conf: open, dialogue: `
				EHLO feeder.test
				S: 250
				BDAT -1
				S: 501 5.5.4
				S:`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := &desk{suppressed: map[string]bool{}}
			for _, s := range tc.suppressed {
				d.suppressed[s] = true
			}
			s := start(t, tc.conf, d, nil)
			f := s.dial(t)
			if tc.name != "smtp-service no" {
				f.expect("220 mx.test")
			}
			f.converse(tc.dialogue)
			if got := len(d.messages()); got != tc.accepted {
				t.Errorf("%d messages accepted, want %d", got, tc.accepted)
			}
			if diff := cmp.Diff(tc.refused, d.refusals()); diff != "" {
				t.Errorf("Refused (-want +got):\n%s", diff)
			}
		})
	}
}

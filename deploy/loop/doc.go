// Package loop measures the control loop in virtual time.
//
// A case is a scenario of the simulated receivers (deploy/receivers) and a setup of sending nodes.
// Nodes queue, retry, open connections and obey leases; the receivers answer by the same model
// that answers over SMTP, and their texts go through carom's own classifier. What decides is what
// runs in production: control.Decide, leases.Split, and on every node limits.Guard, Glide and Merge.
// The loop sees the answers late, as it does through the event log, and by the oracle of the
// scenario it is judged, and compared with rules that are in use elsewhere.
//
// A run is a function of case, method and seed. It reads no clock, opens no connection, and takes about
// a millisecond for a minute of four nodes. Runs are independent of each other and safe for
// concurrent use.
package loop

// Package deliver brings the outputs of a run into their owner's files, exactly once.
//
// It is an outbox: a run may be tried several times, on several back ends, and the server may stop between any two
// steps; whoever runs the job repeats Deliver until it holds, and only then finishes the job. The order is
//
//  1. the bytes are stored under a key of their own, durably, and nobody knows the key yet;
//  2. one commit checks the attempt's fence, gives the bytes a name, and notes the slot of the output (job, node,
//     key, index), which is unique;
//  3. bytes that lost their name, or never got one, are deleted.
//
// A stop after 1 leaves bytes without a name, which a sweep finds; a repeat after 2 meets the slot and changes
// nothing when the bytes are equal. Other bytes, of another attempt, take the place of the first ones under the
// same name as long as the job runs.
package deliver

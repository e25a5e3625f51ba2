// Package usage knows what people take of the studio's GPUs: how much, how much they may, and how long what they ask
// for will take.
//
// [Profile] reads a graph as it is submitted. [Ledger] learns from every run how long graphs like it take, counts jobs
// and GPU time of people and groups by hours and days, and says when a quota is used up. What it learned from
// one person's runs tells another nothing but how long theirs will take: it keeps no graphs and no names of models, only
// hashes of them.
package usage

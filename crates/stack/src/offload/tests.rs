mod coalesce;
mod reference;
mod segment;

class Product < ApplicationRecord
  belongs_to :category, optional: true, counter_cache: true

  enum status: { draft: 0, listed: 1, retired: 2 }

  validates :name, presence: true
  validates :price, numericality: { greater_than_or_equal_to: 0 }
end
